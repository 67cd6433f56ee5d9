// A server that is busy says how long to wait. Whoever looks may cut that short.
import { CallError } from "./api";

export interface Wait {
  /** What the server said. */
  why: string;
  /** When the next try is made, in ms since 1970. */
  until: number;
  /** Try now. */
  end: () => void;
}

/** Was it refused only for now? Then the server says when to come again. */
export const isForNow = (error: unknown): error is CallError =>
  error instanceof CallError && (error.status === 429 || error.status === 503) && error.retrySeconds > 0;

/** Wait as long as the server asked to, or until `end` is called, or the signal is aborted. */
export async function waitFor(error: CallError, show: (wait: Wait | null) => void, abort?: AbortSignal): Promise<void> {
  await new Promise<void>((end) => {
    const until = Date.now() + 1000 * error.retrySeconds;
    const timer = setTimeout(end, 1000 * error.retrySeconds);
    const stop = (): void => {
      clearTimeout(timer);
      end();
    };
    abort?.addEventListener("abort", stop, { once: true });
    show({ why: error.message, until, end: stop });
    if (abort?.aborted) stop();
  });
  show(null);
}
