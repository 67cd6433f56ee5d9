// The little of node that the tests use.
declare module "node:test" {
  type Run = () => void | Promise<void>;
  export function test(name: string, run: Run): void;
  export function test(name: string, options: { skip: string | false }, run: Run): void;
}
declare module "node:assert/strict" {
  interface Assert {
    equal(found: unknown, wanted: unknown, told?: string): void;
    deepEqual(found: unknown, wanted: unknown, told?: string): void;
    throws(run: () => unknown, told?: RegExp): void;
    rejects(run: Promise<unknown>, told?: RegExp): Promise<void>;
    ok(found: unknown, told?: string): asserts found;
  }
  const assert: Assert;
  export default assert;
}
