import { Ladder } from './ladder';
import { reconnecting, type Notice } from './messages';
import type { Page } from './page';
import { RouterRing, absolute } from './routers';
import type { PlayerState } from './state';

export const HLS_TYPE = 'application/vnd.apple.mpegurl';

/** Plays through the browser's own HLS: Safari without Media Source Extensions. */
export class NativeEngine {
  private readonly ring: RouterRing;
  private readonly ladder = new Ladder();
  private readonly master: string;
  private url: string;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly video: HTMLVideoElement,
    page: Page,
    private readonly state: PlayerState,
    private readonly notify: (n: Notice | null) => void,
    ready: () => void,
  ) {
    state.engine = 'native';
    this.ring = new RouterRing([location.origin, ...page.routers]);
    this.master = absolute(page.master, location.origin);
    this.url = this.master;
    video.addEventListener('error', this.onError);
    video.addEventListener('playing', this.onPlaying);
    video.src = this.url;
    ready();
  }

  /** inHand leaves it to the browser when to start. */
  inHand(_seconds: number): boolean {
    return true;
  }

  destroy(): void {
    clearTimeout(this.timer);
    this.video.removeEventListener('error', this.onError);
    this.video.removeEventListener('playing', this.onPlaying);
    this.video.removeAttribute('src');
    this.video.load();
  }

  sample(): void {
    this.state.height = this.video.videoHeight;
  }

  private readonly onPlaying = (): void => {
    this.ladder.loaded(0, 1);
    this.ring.answered(this.url);
    this.notify(null);
  };

  private readonly onError = (): void => {
    const { state, video } = this;
    state.errors++;
    state.lastError = video.error?.message || 'media error';
    // Safari moves between pathways by itself, so this means the router or all of them.
    this.ring.failed(this.url);
    this.url = this.ring.candidates(this.master)[0]!;
    const at = video.currentTime;
    const step = this.ladder.fail();
    state.recoveries++;
    this.notify(reconnecting(step.attempt, navigator.onLine));
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      video.src = this.url;
      if (at > 0) video.addEventListener('loadedmetadata', () => (video.currentTime = at), { once: true });
      video.play().catch(() => undefined);
    }, step.delayMs);
  };
}
