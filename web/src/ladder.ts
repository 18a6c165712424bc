/**
 * The way back from a fatal network error: try again after a growing delay with
 * doubled timeouts, and shrink both again once segments flow.
 */
const DELAYS_MS = [500, 1_000, 2_000, 4_000];
const MAX_FACTOR = 8;

export interface Step {
  attempt: number;
  delayMs: number;
  factor: number;
}

export class Ladder {
  private attempts = 0;
  private scale = 1;

  get factor(): number {
    return this.scale;
  }

  get attempt(): number {
    return this.attempts;
  }

  /** fail is called for each fatal error and says when and how to try again. */
  fail(): Step {
    const delayMs = DELAYS_MS[Math.min(this.attempts, DELAYS_MS.length - 1)]!;
    this.attempts++;
    this.scale = Math.min(this.scale * 2, MAX_FACTOR);
    return { attempt: this.attempts, delayMs, factor: this.scale };
  }

  /**
   * loaded is called for each segment that arrived. It returns true when the
   * timeouts may shrink by half: the segment came in a quarter of the base time.
   */
  loaded(firstByteMs: number, baseFirstByteMs: number): boolean {
    this.attempts = 0;
    if (this.scale === 1 || firstByteMs > baseFirstByteMs / 4) return false;
    this.scale /= 2;
    return true;
  }
}
