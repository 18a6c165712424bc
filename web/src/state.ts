/** What the player knows about itself; tests and the stats panel read it. */
export interface PlayerState {
  /** Name of the edge the last segment came from. */
  edge: string;
  place: string;
  pathway: string;
  /** Pathways in the order of the last steering answer. */
  pathways: string[];
  /** Router that answered the last steering request. */
  steering: string;
  steeringLoads: number;
  routerFailures: number;
  stalls: number;
  stallSeconds: number;
  /** No progress although data was there: the device, not the network. */
  freezes: number;
  frames: number;
  dropped: number;
  level: number;
  levels: number;
  height: number;
  bitrate: number;
  bandwidth: number;
  position: number;
  duration: number;
  ahead: number;
  playing: boolean;
  ended: boolean;
  growing: boolean;
  /** Moves to another pathway. */
  switches: number;
  /** Changes of rung. */
  rungs: number;
  errors: number;
  lastError: string;
  recoveries: number;
  /** Title of the message the viewer sees, if any. */
  notice: string;
  engine: 'hls.js' | 'native' | '';
  /** What happened last, oldest first: errors, stalls, moves; see note(). */
  log: string[];
}

const LOG_MAX = 100;

/** note adds a line to the log: seconds since the page was opened, position, buffer, what. */
export function note(s: PlayerState, what: string): void {
  if (s.log.length >= LOG_MAX) s.log.shift();
  s.log.push(`${(performance.now() / 1000).toFixed(1)}s @${s.position.toFixed(1)}+${s.ahead.toFixed(1)} ${what}`);
}

export function newState(): PlayerState {
  return {
    edge: '', place: '', pathway: '', pathways: [], steering: '', steeringLoads: 0, routerFailures: 0,
    stalls: 0, stallSeconds: 0, freezes: 0, frames: 0, dropped: 0,
    level: -1, levels: 0, height: 0, bitrate: 0, bandwidth: 0,
    position: 0, duration: 0, ahead: 0, playing: false, ended: false, growing: false,
    switches: 0, rungs: 0, errors: 0, lastError: '', recoveries: 0, notice: '', engine: '', log: [],
  };
}

declare global {
  interface Window {
    meridian?: PlayerState;
  }
}
