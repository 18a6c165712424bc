/** A stall is STALL_MS without progress on an empty buffer. */
export const STALL_MS = 500;
/** Browsers stop a little before the end of what is buffered. */
export const EMPTY_S = 0.25;

export interface Sample {
  /** Milliseconds on a steady clock. */
  now: number;
  position: number;
  /** Seconds buffered ahead of the position. */
  ahead: number;
  /** Playback was asked for and nothing but data holds it up. */
  wanted: boolean;
}

/** Counts stalls, and apart from them freezes: no progress although data is there. */
export class StallMeter {
  stalls = 0;
  stallSeconds = 0;
  freezes = 0;
  private last: { position: number; at: number } | null = null;
  private waiting: 'no' | 'stall' | 'freeze' = 'no';
  private counted = 0;

  sample(s: Sample): void {
    if (!s.wanted) {
      this.last = null;
      this.waiting = 'no';
      return;
    }
    if (this.last === null || s.position !== this.last.position) {
      this.last = { position: s.position, at: s.now };
      this.waiting = 'no';
      return;
    }
    const still = s.now - this.last.at;
    if (still < STALL_MS) return;
    if (s.ahead > EMPTY_S) {
      if (this.waiting === 'no') {
        this.freezes++;
        this.waiting = 'freeze';
      }
      return;
    }
    if (this.waiting !== 'stall') {
      this.stalls++;
      this.waiting = 'stall';
      this.counted = 0;
    }
    this.stallSeconds += still / 1000 - this.counted;
    this.counted = still / 1000;
  }
}

/** Adds up decoded frames over resets of the media element. */
export class FrameCounter {
  private done = 0;
  private current = 0;

  sample(total: number): number {
    if (total < this.current) this.done += this.current;
    this.current = total;
    return this.done + total;
  }
}

/** ahead is how many seconds are buffered without a gap after position. */
export function ahead(ranges: TimeRanges, position: number): number {
  for (let i = 0; i < ranges.length; i++) {
    if (position >= ranges.start(i) - 0.1 && position <= ranges.end(i)) return ranges.end(i) - position;
  }
  return 0;
}
