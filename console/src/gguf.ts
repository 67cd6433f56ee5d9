// The header of a GGUF file, read before a byte of it is sent: is it one, and of what? What the server needs of it to say
// whether the model fits stays: all but long lists, such as the vocabulary, which make most of it.
import { joined } from "./bytes";
import { t } from "./i18n";

const LOOKS = [1, 4, 16, 64, 128].map((mib) => mib << 20); // bytes from the beginning, until the header is within
const LONGEST_LIST = 1024; // numbers; longer ones are left out
const SIZES = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8]; // bytes of a value, by its type
const TEXT = 8;
const LIST = 9;
const INTEGERS = [0, 1, 2, 3, 4, 5];
const MOST_DIMENSIONS = 4;

export interface Head {
  name: string;
  architecture: string;
  nTensors: number;
  /** Of a model in several files; 1 of 1 for a whole one. */
  part: number;
  nParts: number;
  /** The header without its long lists. */
  slim: Uint8Array<ArrayBuffer>;
}

/** Raises an Error that says what the file is not. */
export async function headOf(file: Blob): Promise<Head> {
  for (const size of LOOKS) {
    const isWhole = size >= file.size;
    const view = new DataView(await file.slice(0, size).arrayBuffer());
    try {
      return read(view);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      if (isWhole) break;
    }
  }
  throw new Error(t("Its header is damaged or cut off."));
}

/** RangeError: the header goes on behind these bytes. */
export function read(view: DataView<ArrayBuffer>): Head {
  if (view.byteLength < 24 || view.getUint32(0, false) !== 0x47475546) throw new Error(t("It is not a GGUF file."));
  const version = view.getUint32(4, true);
  if (version < 2 || version > 3) throw new Error(t("It is GGUF of version {0}; versions 2 and 3 can be loaded.", version));
  const nTensors = Number(view.getBigUint64(8, true));
  const nPairs = Number(view.getBigUint64(16, true));
  if (nTensors === 0) throw new Error(t("It has no tensors: is it a part of a model, or only its vocabulary?"));
  let at = 24;
  const length = (): number => {
    const n = Number(view.getBigUint64(at, true));
    at += 8;
    return n;
  };
  const skip = (n: number): void => {
    at += n;
    if (at > view.byteLength) throw new RangeError("behind the end");
  };
  const text = (): string => {
    const [n, from] = [length(), at];
    skip(n);
    return new TextDecoder().decode(new Uint8Array(view.buffer, from, n));
  };
  const type = (): number => {
    skip(4);
    return view.getUint32(at - 4, true);
  };
  const sizeOf = (kind: number): number => {
    const size = SIZES[kind];
    if (!size) throw new Error(t("Its header is damaged or cut off."));
    return size;
  };
  const texts = new Map<string, string>();
  const numbers = new Map<string, number>();
  const pieces: Uint8Array<ArrayBuffer>[] = [];
  for (let i = 0; i < nPairs; i++) {
    const from = at;
    const key = text();
    const kind = type();
    let isKept = true;
    if (kind === TEXT) texts.set(key, text());
    else if (kind === LIST) {
      const of = type();
      const n = length();
      if (of === TEXT) for (let each = 0; each < n; each++) skip(length());
      else skip(n * sizeOf(of));
      isKept = of !== TEXT && n <= LONGEST_LIST;
    } else {
      skip(sizeOf(kind));
      if (INTEGERS.includes(kind)) numbers.set(key, integer(view, at, sizeOf(kind)));
    }
    if (isKept) pieces.push(new Uint8Array(view.buffer, from, at - from));
  }
  const nKept = pieces.length;
  const from = at;
  for (let i = 0; i < nTensors; i++) {
    skip(length());
    const n = type();
    if (n > MOST_DIMENSIONS) throw new Error(t("Its header is damaged or cut off."));
    skip(8 * n + 12);
  }
  const start = new DataView(view.buffer.slice(0, 24));
  start.setBigUint64(16, BigInt(nKept), true);
  return {
    name: texts.get("general.name") ?? "",
    architecture: texts.get("general.architecture") ?? "",
    nTensors,
    part: (numbers.get("split.no") ?? 0) + 1,
    nParts: numbers.get("split.count") || 1,
    slim: joined([new Uint8Array(start.buffer), ...pieces, new Uint8Array(view.buffer, from, at - from)]),
  };
}

/** The number that ends at a place. */
const integer = (view: DataView, end: number, size: number): number =>
  size === 1 ? view.getUint8(end - 1) : size === 2 ? view.getUint16(end - 2, true) : view.getUint32(end - 4, true);
