// Chats in IndexedDB, each under its owner: principal and canister. A browser that has none still chats.

const NAME = "canister-console";
const STORE = "chats";

let opened: Promise<IDBDatabase | null> | null = null;

function database(): Promise<IDBDatabase | null> {
  opened ??= new Promise((done) => {
    try {
      const asked = indexedDB.open(NAME, 1);
      asked.onupgradeneeded = () => {
        const store = asked.result.createObjectStore(STORE, { keyPath: "id" });
        store.createIndex("owner", "owner");
      };
      asked.onsuccess = () => done(asked.result);
      asked.onerror = () => done(null);
      asked.onblocked = () => done(null);
    } catch {
      done(null);
    }
  });
  return opened;
}

async function work<T>(mode: IDBTransactionMode, what: (store: IDBObjectStore) => IDBRequest<T>): Promise<T | null> {
  const found = await database();
  if (!found) return null;
  return new Promise((done) => {
    try {
      const asked = what(found.transaction(STORE, mode).objectStore(STORE));
      asked.onsuccess = () => done(asked.result);
      asked.onerror = () => done(null);
    } catch {
      done(null);
    }
  });
}

export interface Owned {
  id: string;
  owner: string;
}

export const listOf = async <T extends Owned>(owner: string): Promise<T[]> =>
  ((await work("readonly", (store) => store.index("owner").getAll(owner))) as T[] | null) ?? [];

export async function put(chat: Owned): Promise<void> {
  await work("readwrite", (store) => store.put(chat));
}

export async function remove(id: string): Promise<void> {
  await work("readwrite", (store) => store.delete(id));
}
