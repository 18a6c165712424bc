import Hls, { ErrorDetails, ErrorTypes, Events, LoaderContextType, type ErrorData, type HlsConfig } from 'hls.js';
import { EdgeDirectory } from './edges';
import { HostErrorController, PathwayWatch, isHostFailure, steeringClass, type Steering } from './failover';
import { Ladder } from './ladder';
import { loaderClass } from './loader';
import { cannotDecode, masterRefused, notFound, reconnecting, type Notice } from './messages';
import type { Page } from './page';
import { FIRST_BYTE_MS, reports, scaled, tuning } from './policies';
import { RouterRing, absolute } from './routers';
import { note, type PlayerState } from './state';
import { EMPTY_S, ahead } from './stalls';

const UNFREEZE_MS = 2_000;
/** After this many failed tries with nothing left to play, ask the routers anew. */
const RELOAD_AFTER = 4;
/** A session is renewed at most this often; a second refusal is final. */
const RENEW_MS = 60_000;
/** Audio and video of one segment end up to this far from each other and from the playlist. */
const END_TOLERANCE_S = 0.25;
const STUCK_MS = 250;
const MEDIA_RECOVERY_MS = 5_000;

/** Plays a page's video through hls.js and keeps playing while anything answers. */
export class HlsEngine {
  private readonly hls: Hls;
  private readonly master: string;
  private readonly edges: EdgeDirectory;
  private readonly ladder = new Ladder();
  private readonly watch = new PathwayWatch();
  private steering: Steering | null = null;
  private retryTimer: ReturnType<typeof setTimeout> | undefined;
  private unfreezeTimer: ReturnType<typeof setTimeout> | undefined;
  private moving = false;
  private started = false;
  private renewedAt = -Infinity;
  private stuckSince = 0;
  private mediaRecoveries: number[] = [];

  constructor(
    private readonly video: HTMLVideoElement,
    page: Page,
    private readonly state: PlayerState,
    /** notify shows a notice, or takes it away. */
    private readonly notify: (n: Notice | null) => void,
    private readonly ready: () => void,
  ) {
    state.engine = 'hls.js';
    this.master = absolute(page.master, location.origin);
    this.edges = new EdgeDirectory(page.edges);
    const ring = new RouterRing([location.origin, ...page.routers]);
    const config: Partial<HlsConfig> = {
      ...tuning,
      ...scaled(1),
      cmcd: reports(page.asset),
      // ?debug=1: hls.js tells the console what it does.
      debug: new URLSearchParams(location.search).get('debug') === '1',
      loader: loaderClass(ring, {
        routerFailed: () => state.routerFailures++,
        routerAnswered: (url, type) => {
          if (type !== LoaderContextType.STEERING_MANIFEST) return;
          state.steering = new URL(url).origin;
          state.steeringLoads++;
        },
      }),
      errorController: HostErrorController as unknown as HlsConfig['errorController'],
      contentSteeringController: steeringClass((s) => (this.steering = s)),
    };
    this.hls = new Hls(config);
    this.listen();
    window.addEventListener('online', this.retryNow);
    video.addEventListener('playing', this.onPlaying);
    this.hls.attachMedia(video);
    this.hls.loadSource(this.master);
  }

  destroy(): void {
    clearTimeout(this.retryTimer);
    clearTimeout(this.unfreezeTimer);
    window.removeEventListener('online', this.retryNow);
    this.video.removeEventListener('playing', this.onPlaying);
    this.hls.destroy();
  }

  /** inHand says whether enough is there to start: all that is asked of a finished video is that it is known. */
  inHand(seconds: number): boolean {
    const details = this.hls.latestLevelDetails;
    return !!details && (!details.live || ahead(this.video.buffered, this.video.currentTime) >= seconds);
  }

  /** sample copies what changes by itself into the state. */
  sample(): void {
    const { hls, state } = this;
    const level = hls.levels[hls.currentLevel >= 0 ? hls.currentLevel : hls.loadLevel];
    state.level = hls.currentLevel >= 0 ? hls.currentLevel : hls.loadLevel;
    state.levels = hls.levels.length;
    state.height = level?.height ?? 0;
    state.bitrate = level?.bitrate ?? 0;
    state.bandwidth = Number.isFinite(hls.bandwidthEstimate) ? hls.bandwidthEstimate : 0;
    // The plain form has one pathway, which hls.js calls ".".
    const named = (p: string): boolean => p !== '.';
    state.pathway = [this.steering?.pathway ?? ''].find(named) ?? '';
    state.pathways = (hls.pathwayPriority ?? this.steering?.pathways ?? []).filter(named);
    this.finish();
  }

  /**
   * A change of pathway within the last segment leaves hls.js waiting for an
   * audio switch that never completes, so it doesn't end the stream. We do.
   */
  private finish(): void {
    const { hls, video } = this;
    const details = hls.latestLevelDetails;
    const end = video.currentTime + ahead(video.buffered, video.currentTime);
    const stuck =
      !!details && !details.live && !video.paused && !video.ended && !video.seeking &&
      video.readyState < HTMLMediaElement.HAVE_FUTURE_DATA && end > 0 && end >= details.edge - END_TOLERANCE_S;
    const now = performance.now();
    if (!stuck) {
      this.stuckSince = 0;
    } else if (this.stuckSince === 0) {
      this.stuckSince = now;
    } else if (now - this.stuckSince >= STUCK_MS) {
      this.stuckSince = 0;
      hls.trigger(Events.BUFFER_EOS, { type: null });
    }
  }

  private readonly onPlaying = (): void => {
    this.started = true;
    this.notify(null);
  };

  private listen(): void {
    const { hls, state } = this;
    hls.on(Events.MANIFEST_PARSED, () => {
      hls.config.startPosition = 0;
      this.ready();
    });
    hls.on(Events.LEVEL_UPDATED, (_, { details }) => {
      if (state.growing && !details.live) note(state, 'playlist complete');
      state.growing = details.live;
    });
    hls.on(Events.LEVEL_SWITCHED, (_, { level }) => {
      state.rungs++;
      note(state, `rung ${level}`);
    });
    hls.on(Events.LEVEL_SWITCHING, (_, data) => {
      const pathway = data.attrs['PATHWAY-ID'];
      if (!this.watch.moved(pathway)) return;
      state.switches++;
      note(state, `to pathway ${pathway}`);
      // Steering doesn't abort the request in flight, which may hang. Not at
      // once: other controllers are still handling what made us move.
      if (this.moving) return;
      this.moving = true;
      queueMicrotask(() => {
        this.moving = false;
        hls.stopLoad();
        this.resume();
      });
    });
    hls.on(Events.FRAG_LOADED, (_, { frag, networkDetails }) => {
      const answered = (networkDetails as XMLHttpRequest | null)?.responseURL || frag.url;
      this.steering?.served();
      const edge = this.edges.find(answered);
      if (edge) {
        state.edge = edge.name;
        state.place = edge.place;
      }
      const { first, start } = frag.stats.loading;
      if (this.ladder.loaded(first - start, FIRST_BYTE_MS)) Object.assign(hls.config, scaled(this.ladder.factor));
    });
    hls.on(Events.FRAG_BUFFERED, () => this.notify(null));
    hls.on(Events.ERROR, (_, data) => this.onError(data));
  }

  private onError(data: ErrorData): void {
    const { state } = this;
    const code = data.response?.code ?? 0;
    state.errors++;
    state.lastError = code > 0 ? `${data.details} (${code})` : data.details;
    note(state, `${data.fatal ? 'fatal ' : ''}${state.lastError} ${data.frag ? `${data.frag.type} ${data.frag.sn}` : (data.url ?? '')}`);
    if (!data.fatal) {
      if (data.details === ErrorDetails.PLAYLIST_UNCHANGED_ERROR && !data.errorAction?.resolved) this.unfreeze();
      return;
    }
    if (data.type === ErrorTypes.NETWORK_ERROR) {
      this.onNetworkError(data, code);
    } else {
      this.onMediaError();
    }
  }

  private onNetworkError(data: ErrorData, code: number): void {
    const ofMaster = data.details.startsWith('manifest');
    const refused = masterRefused(code);
    if (refused && ofMaster) {
      this.notify(refused);
      return;
    }
    if (refused && !isHostFailure(data)) {
      // The session has ended, the link may still be good for a new one.
      if (performance.now() - this.renewedAt < RENEW_MS) {
        this.notify(refused);
        return;
      }
      this.renewedAt = performance.now();
      this.reload();
      return;
    }
    const step = this.ladder.fail();
    this.state.recoveries++;
    Object.assign(this.hls.config, scaled(step.factor));
    this.notify(ofMaster && code === 404 ? notFound : reconnecting(step.attempt, navigator.onLine));
    clearTimeout(this.retryTimer);
    this.retryTimer = setTimeout(() => this.retry(ofMaster), step.delayMs);
  }

  private retry(ofMaster: boolean): void {
    this.retryTimer = undefined;
    const empty = ahead(this.video.buffered, this.video.currentTime) <= EMPTY_S;
    if (ofMaster || (empty && this.ladder.attempt >= RELOAD_AFTER)) {
      this.reload();
      return;
    }
    this.steering?.forgive(this.steering.pathway);
    this.hls.stopLoad();
    this.resume();
  }

  private readonly retryNow = (): void => {
    if (this.retryTimer === undefined) return;
    clearTimeout(this.retryTimer);
    this.retry(this.hls.levels.length === 0);
  };

  /** No edge has a newer playlist: the encoder may be slow. Nothing but us asks again. */
  private unfreeze(): void {
    clearTimeout(this.unfreezeTimer);
    this.unfreezeTimer = setTimeout(() => {
      this.steering?.forgive();
      this.hls.stopLoad();
      this.resume();
    }, UNFREEZE_MS);
  }

  /** resume loads on from the playhead; what is buffered stays. */
  private resume(): void {
    if (this.started) this.hls.startLoad(this.video.currentTime, true);
    else this.hls.startLoad(this.video.currentTime);
  }

  /** reload asks for a new master and goes on at the playhead. */
  private reload(): void {
    const { hls, video } = this;
    const playing = !video.paused;
    hls.config.startPosition = video.currentTime;
    if (playing) hls.once(Events.MANIFEST_PARSED, () => void video.play().catch(() => undefined));
    hls.loadSource(this.master);
  }

  private onMediaError(): void {
    const now = performance.now();
    this.mediaRecoveries = this.mediaRecoveries.filter((t) => now - t < MEDIA_RECOVERY_MS);
    if (this.mediaRecoveries.length >= 2) {
      this.notify(cannotDecode);
      return;
    }
    if (this.mediaRecoveries.length === 1) this.hls.swapAudioCodec();
    this.mediaRecoveries.push(now);
    this.state.recoveries++;
    this.hls.recoverMediaError();
  }
}
