import Hls from 'hls.js';
import { autoplay } from './autoplay';
import { HlsEngine } from './engine';
import { unsupported, type Notice } from './messages';
import { HLS_TYPE, NativeEngine } from './native';
import type { Page } from './page';
import { EMPTY_S, FrameCounter, StallMeter, ahead } from './stalls';
import { newState, note, type PlayerState } from './state';

const SAMPLE_MS = 100;
/**
 * The beginning of a video that is still being encoded arrives about as fast as
 * it plays. Starting with a little in hand costs a moment once; starting with
 * nothing costs a stall.
 */
const HEAD_START_S = 6;
const HEAD_START_MAX_MS = 10_000;

export interface PlayerView {
  /** update is called ten times a second. */
  update(state: PlayerState, notice: Notice | null): void;
  /** muted: the browser allowed playing only without sound. */
  muted(): void;
}

/** Joins an engine, the measurements and the view; one per page. */
export class Player {
  readonly state: PlayerState = newState();
  private engine: HlsEngine | NativeEngine | null = null;
  private readonly meter = new StallMeter();
  private readonly frames = new FrameCounter();
  private notice: Notice | null = null;
  private begun = false;
  /** When to start at the latest; 0 while there is nothing to start. */
  private startBy = 0;
  private readonly timer: ReturnType<typeof setInterval>;

  constructor(
    private readonly video: HTMLVideoElement,
    private readonly page: Page,
    private readonly view: PlayerView,
    private readonly auto: boolean,
  ) {
    window.meridian = this.state;
    video.addEventListener('playing', () => (this.begun = true));
    this.start();
    this.timer = setInterval(() => this.sample(), SAMPLE_MS);
  }

  /** restart begins anew where the viewer was, after a final notice. */
  restart(): void {
    const at = this.video.currentTime;
    this.engine?.destroy();
    this.notice = null;
    this.start();
    this.video.addEventListener('loadedmetadata', () => (this.video.currentTime = at), { once: true });
  }

  destroy(): void {
    clearInterval(this.timer);
    this.engine?.destroy();
  }

  private start(): void {
    const notify = (n: Notice | null) => (this.notice = n);
    let first = true;
    const ready = () => {
      if (first && this.auto) this.startBy = performance.now() + HEAD_START_MAX_MS;
      first = false;
    };
    if (Hls.isSupported()) {
      this.engine = new HlsEngine(this.video, this.page, this.state, notify, ready);
    } else if (this.video.canPlayType(HLS_TYPE) !== '') {
      this.engine = new NativeEngine(this.video, this.page, this.state, notify, ready);
    } else {
      this.notice = unsupported;
    }
  }

  private async begin(): Promise<void> {
    if ((await autoplay(this.video)) === 'muted' && !this.page.embed) this.view.muted();
  }

  private sample(): void {
    const { video, state, meter } = this;
    this.engine?.sample();
    if (this.startBy > 0 && (this.engine?.inHand(HEAD_START_S) || performance.now() >= this.startBy)) {
      this.startBy = 0;
      if (video.paused) void this.begin();
    }
    const forward = ahead(video.buffered, video.currentTime);
    meter.sample({
      now: performance.now(),
      position: video.currentTime,
      ahead: forward,
      wanted: this.begun && !video.paused && !video.seeking && !video.ended,
    });
    if (meter.stalls > state.stalls) note(state, 'stall');
    const quality = video.getVideoPlaybackQuality();
    state.stalls = meter.stalls;
    state.stallSeconds = meter.stallSeconds;
    state.freezes = meter.freezes;
    state.frames = this.frames.sample(quality.totalVideoFrames);
    state.dropped = quality.droppedVideoFrames;
    state.position = video.currentTime;
    state.duration = Number.isFinite(video.duration) ? video.duration : this.page.duration;
    state.ahead = forward;
    state.playing = this.begun && !video.paused && !video.ended;
    state.ended = video.ended;
    // While there is something to play, trouble with the network is ours alone.
    const hidden = this.notice !== null && !this.notice.final && forward > EMPTY_S;
    const shown = hidden ? null : this.notice;
    state.notice = shown?.title ?? '';
    this.view.update(state, shown);
  }
}
