// The head of a GGUF file, read before a byte of it is sent: is it one, and of what?

import { t } from "./i18n";

const HEAD_BYTES = 1 << 20;
const MOST_BYTES_OF_TEXT = 1 << 16;
const SIZES = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8];
const TEXT = 8;
const ARRAY = 9;

export interface Head {
  name: string;
  architecture: string;
  nTensors: number;
}

/** Raises an Error that says what the file is not. Only what stands before the first long list is read. */
export async function headOf(file: Blob): Promise<Head> {
  const view = new DataView(await file.slice(0, HEAD_BYTES).arrayBuffer());
  if (view.byteLength < 24 || view.getUint32(0, false) !== 0x47475546) throw new Error(t("It is no GGUF file."));
  const version = view.getUint32(4, true);
  if (version < 2 || version > 3) throw new Error(t("It is GGUF of version {0}; versions 2 and 3 can be loaded.", version));
  const nTensors = Number(view.getBigUint64(8, true));
  const nPairs = Number(view.getBigUint64(16, true));
  if (nTensors === 0) throw new Error(t("It has no tensors: is it a part of a model, or only its vocabulary?"));
  const found = new Map<string, string>();
  let at = 24;
  const text = (): string => {
    const n = Number(view.getBigUint64(at, true));
    if (n > MOST_BYTES_OF_TEXT) throw new RangeError("long");
    const bytes = new Uint8Array(view.buffer, at + 8, n);
    at += 8 + n;
    return new TextDecoder().decode(bytes);
  };
  try {
    for (let i = 0; i < nPairs; i++) {
      const key = text();
      const type = view.getUint32(at, true);
      at += 4;
      if (type === TEXT) found.set(key, text());
      else if (type === ARRAY) {
        const size = SIZES[view.getUint32(at, true)] ?? 0;
        if (!size) break; // of texts: the vocabulary, which is long
        at += 12 + size * Number(view.getBigUint64(at + 4, true));
      } else at += SIZES[type] ?? 0;
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // the head goes on behind what was read
  }
  return { name: found.get("general.name") ?? "", architecture: found.get("general.architecture") ?? "", nTensors };
}
