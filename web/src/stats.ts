import type { PlayerState } from './state';

/** rate writes bits per second as people read them. */
export function rate(bps: number): string {
  if (!Number.isFinite(bps) || bps <= 0) return '–';
  return bps >= 1e6 ? `${(bps / 1e6).toFixed(1)} Mbit/s` : `${Math.round(bps / 1e3)} kbit/s`;
}

/** rows are the lines of the statistics panel. */
export function rows(s: PlayerState): [string, string][] {
  const rung = s.height > 0 ? `${s.height}p` : '–';
  const stalls = s.stalls === 0 ? 'none' : `${s.stalls} · ${s.stallSeconds.toFixed(1)} s`;
  return [
    ['Edge', s.edge || '–'],
    ['Rung', s.bitrate > 0 ? `${rung} · ${rate(s.bitrate)}` : rung],
    ['Bandwidth', rate(s.bandwidth)],
    ['Buffer', `${s.ahead.toFixed(1)} s`],
    ['Stalls', stalls],
    ['Switches', `${s.switches} edge · ${Math.max(0, s.rungs - 1)} rung`],
    ['Frames', `${s.frames} · ${s.dropped} dropped`],
  ];
}
