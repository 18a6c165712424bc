/**
 * The routers of the platform as one resource: a request goes to the router its
 * URL names, or, when that one has just failed, to the next. A router that
 * failed is asked last for HOLD_MS, never dropped. The first is in the viewer's
 * own region: what names another does so because that region's edges may be lost,
 * so it is the last to turn to then.
 */
export const HOLD_MS = 10_000;

export class RouterRing {
  private readonly bases: string[];
  private readonly failedAt = new Map<string, number>();

  constructor(
    bases: readonly string[],
    private readonly now: () => number = () => performance.now(),
  ) {
    this.bases = [...new Set(bases.map((b) => b.replace(/\/+$/, '')).filter(Boolean))];
  }

  /**
   * candidates lists the URLs under which the resource at url can be asked for,
   * best first: url itself, then the same path at the other routers. Those that
   * failed lately come last, the longest-failed first.
   */
  candidates(url: string): string[] {
    const own = this.baseOf(url);
    if (own === null) return [url];
    const rest = url.slice(own.length);
    const at = this.bases.indexOf(own);
    const turned = at > 0 ? [...this.bases.slice(at), ...this.bases.slice(1, at), this.bases[0]!] : this.bases;
    const now = this.now();
    const held = (b: string) => {
      const t = this.failedAt.get(b);
      return t !== undefined && now - t < HOLD_MS ? t : 0;
    };
    return turned
      .map((base, i) => ({ base, i, held: held(base) }))
      .sort((a, b) => a.held - b.held || a.i - b.i)
      .map((c) => c.base + rest);
  }

  /** has says whether url is at one of the routers. */
  has(url: string): boolean {
    return this.baseOf(url) !== null;
  }

  failed(url: string): void {
    const base = this.baseOf(url);
    // 0 would read as "not failed".
    if (base !== null) this.failedAt.set(base, Math.max(this.now(), 1e-3));
  }

  answered(url: string): void {
    const base = this.baseOf(url);
    if (base !== null) this.failedAt.delete(base);
  }

  private baseOf(url: string): string | null {
    return this.bases.find((b) => url === b || url.startsWith(b + '/') || url.startsWith(b + '?')) ?? null;
  }
}

/** absolute resolves a root-relative master URL against the page's own router. */
export function absolute(url: string, origin: string): string {
  return new URL(url, origin).href;
}
