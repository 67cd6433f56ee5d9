// What modules of the page find of a browser when they are read.
const kept = new Map<string, string>();
const storage = {
  getItem: (name: string): string | null => kept.get(name) ?? null,
  setItem: (name: string, value: string): void => void kept.set(name, value),
  removeItem: (name: string): void => void kept.delete(name),
};

Object.assign(globalThis, {
  localStorage: storage,
  sessionStorage: storage,
  document: { documentElement: { dataset: {}, lang: "en" }, hidden: false, addEventListener: (): void => {} },
});
Object.defineProperty(globalThis, "navigator", { value: { languages: ["en-US"] }, configurable: true });

export {};
