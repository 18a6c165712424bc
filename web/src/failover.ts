/**
 * hls.js leaves a failing host late: its error controller first tries another
 * rung of the same host. These subclasses move to another pathway instead, and
 * forget penalties soon. They rely on internals of the pinned version; the
 * tests beside this file fail when those change.
 */
import {
  ContentSteeringController,
  ErrorController,
  ErrorDetails,
  ErrorTypes,
  Events,
  type ErrorActionFlags,
  type ErrorData,
  type IErrorAction,
  type NetworkErrorAction,
} from 'hls.js';
import type Hls from 'hls.js';
import { PENALTY_MS } from './policies';

// Const enums of hls.js, which exist in its types only.
const sendToPenaltyBox = 2 satisfies number as NetworkErrorAction.SendAlternateToPenaltyBox;
const allOfTheHost = 1 satisfies number as ErrorActionFlags.MoveAllAlternatesMatchingHost;

const hostDetails = new Set<string>([
  ErrorDetails.FRAG_LOAD_ERROR,
  ErrorDetails.FRAG_LOAD_TIMEOUT,
  ErrorDetails.LEVEL_LOAD_ERROR,
  ErrorDetails.LEVEL_LOAD_TIMEOUT,
  ErrorDetails.LEVEL_EMPTY_ERROR,
  ErrorDetails.LEVEL_PARSING_ERROR,
  ErrorDetails.AUDIO_TRACK_LOAD_ERROR,
  ErrorDetails.AUDIO_TRACK_LOAD_TIMEOUT,
  ErrorDetails.SUBTITLE_LOAD_ERROR,
  ErrorDetails.SUBTITLE_TRACK_LOAD_TIMEOUT,
  ErrorDetails.PLAYLIST_UNCHANGED_ERROR,
]);

/** isHostFailure says whether another edge may well answer what this one didn't. */
export function isHostFailure(data: Pick<ErrorData, 'type' | 'details' | 'response'>): boolean {
  if (data.type !== ErrorTypes.NETWORK_ERROR || !hostDetails.has(data.details)) return false;
  const code = data.response?.code ?? 0;
  // 404: the playlist says it is there, so it is this edge that is wrong.
  // 401, 403 and 410 are answers about the viewer or the video: the same everywhere.
  return code < 400 || code === 404 || code === 408 || code === 429 || code >= 500;
}

interface ErrorInternals {
  getLevelSwitchAction(data: ErrorData, level: number | null | undefined): IErrorAction;
  getFragRetryOrSwitchAction(data: ErrorData): IErrorAction;
}

const ErrorBase = ErrorController as unknown as new (hls: Hls) => Omit<ErrorController, keyof ErrorInternals> & ErrorInternals;

export class HostErrorController extends ErrorBase {
  override getLevelSwitchAction(data: ErrorData, level: number | null | undefined): IErrorAction {
    if (!isHostFailure(data)) return super.getLevelSwitchAction(data, level);
    return {
      action: sendToPenaltyBox,
      flags: allOfTheHost,
    };
  }

  override getFragRetryOrSwitchAction(data: ErrorData): IErrorAction {
    const action = super.getFragRetryOrSwitchAction(data);
    if (action.action === sendToPenaltyBox && isHostFailure(data)) {
      // With a retry attached and no pathway left, hls.js would skip the segment
      // of a growing playlist as a gap. We want the fatal error: the ladder retries.
      delete action.retryConfig;
      delete action.retryCount;
    }
    return action;
  }
}

interface SteeringInternals {
  penalizedPathways: Record<string, number>;
  pathwayId: string;
  updatePathwayPriority(order: string[]): void;
}

const SteeringBase = ContentSteeringController as unknown as new (
  hls: Hls,
) => Omit<ContentSteeringController, keyof SteeringInternals> & SteeringInternals;

/**
 * How long failed pathways are avoided: PENALTY_MS after the first failure,
 * twice as long after each further one until something arrives from there. So a
 * recovered edge is used again soon, and one that steering doesn't know is dead
 * costs ever less.
 */
export class Penalties {
  private readonly seen = new Map<string, number>();
  private readonly count = new Map<string, number>();

  /** drop forgets what is old enough at time now; hls.js itself would wait 300 s. */
  drop(penalties: Record<string, number>, now: number): void {
    for (const [pathway, since] of Object.entries(penalties)) {
      if (this.seen.get(pathway) !== since) {
        this.seen.set(pathway, since);
        this.count.set(pathway, (this.count.get(pathway) ?? 0) + 1);
      }
      const failures = Math.min(this.count.get(pathway) ?? 1, PENALTY_DOUBLINGS);
      if (now - since >= PENALTY_MS * 2 ** (failures - 1)) delete penalties[pathway];
    }
  }

  served(pathway: string): void {
    this.count.delete(pathway);
  }
}

const PENALTY_DOUBLINGS = 5;

/** What the engine needs of the steering controller that hls.js creates for itself. */
export interface Steering {
  readonly pathway: string;
  readonly pathways: string[];
  /** served is told when something arrived from the present pathway. */
  served(): void;
  /** forgive drops every penalty and goes to the best pathway, avoid last. */
  forgive(avoid?: string): void;
}

/** steeringClass makes the controller class and hands each instance to created. */
export function steeringClass(created: (s: Steering) => void): typeof ContentSteeringController {
  class MeridianSteering extends SteeringBase {
    private readonly penalties = new Penalties();
    private complete = false;

    constructor(hls: Hls) {
      super(hls);
      hls.on(Events.STEERING_MANIFEST_LOADED, () => this.penalties.drop(this.penalizedPathways, performance.now()));
      hls.on(Events.BUFFERED_TO_END, () => (this.complete = true));
      hls.on(Events.FRAG_LOADING, () => (this.complete = false));
      hls.on(Events.MANIFEST_LOADING, () => (this.complete = false));
      const self = this;
      created({
        get pathway() {
          return self.pathwayId;
        },
        get pathways() {
          return self.pathways();
        },
        served() {
          self.penalties.served(self.pathwayId);
        },
        forgive(avoid) {
          for (const pathway of Object.keys(self.penalizedPathways)) delete self.penalizedPathways[pathway];
          const order = self.pathwayPriority ?? self.pathways();
          if (order.length > 1) {
            self.pathwayPriority = [...order.filter((p) => p !== avoid), ...order.filter((p) => p === avoid)];
          }
        },
      });
    }

    override updatePathwayPriority(order: string[]): void {
      // With everything buffered there is nothing to fetch from elsewhere, and a
      // change would reopen the ended media source for good.
      if (!this.complete) super.updatePathwayPriority(order);
    }
  }
  return MeridianSteering as unknown as typeof ContentSteeringController;
}

/** Tells when playback moves to another pathway. */
export class PathwayWatch {
  private current: string | null = null;

  /** moved is true when pathway isn't the first and isn't the last one seen. */
  moved(pathway: string | undefined): boolean {
    if (!pathway) return false;
    const before = this.current;
    this.current = pathway;
    return before !== null && before !== pathway;
  }
}
