import Hls, { type Fragment } from 'hls.js';
import { describe, expect, it } from 'vitest';
import { EdgeDirectory, label } from './edges';
import { Ladder } from './ladder';
import { retryElsewhere } from './loader';
import { masterRefused, reconnecting } from './messages';
import { FIRST_BYTE_CAP_MS, FIRST_BYTE_MS, LOAD_CAP_MS, reports, scaled } from './policies';
import { delay } from './poll';
import { FrameCounter, StallMeter, ahead } from './stalls';
import { newState } from './state';
import { rate, rows } from './stats';

describe('EdgeDirectory', () => {
  const edges = new EdgeDirectory([{ name: 'eu-1', region: 'eu', place: 'Frankfurt', url: 'http://127.1.0.1:8082' }]);
  it('names the edge behind a URL', () => {
    expect(label(edges.find('http://127.1.0.1:8082/v/x')!)).toBe('Frankfurt · eu-1');
    expect(label(edges.find('http://127.9.0.1:8082/v/x')!)).toBe('127.9.0.1:8082');
  });
  it('names none for what didn’t come from an edge', () => {
    for (const u of ['data:application/json,{}', 'blob:http://x/1', '', '/v']) expect(edges.find(u)).toBeNull();
  });
});

describe('Ladder', () => {
  it('waits longer and doubles the timeouts, within bounds', () => {
    const l = new Ladder();
    expect([1, 2, 3, 4, 5, 6].map(() => l.fail())).toEqual([
      { attempt: 1, delayMs: 500, factor: 2 },
      { attempt: 2, delayMs: 1000, factor: 4 },
      { attempt: 3, delayMs: 2000, factor: 8 },
      { attempt: 4, delayMs: 4000, factor: 8 },
      { attempt: 5, delayMs: 4000, factor: 8 },
      { attempt: 6, delayMs: 4000, factor: 8 },
    ]);
  });
  it('comes back step by step, and only on a quick network', () => {
    const l = new Ladder();
    l.fail();
    l.fail();
    expect(l.loaded(2_000, FIRST_BYTE_MS)).toBe(false);
    expect([l.factor, l.attempt]).toEqual([4, 0]);
    expect(l.loaded(100, FIRST_BYTE_MS)).toBe(true);
    expect(l.loaded(100, FIRST_BYTE_MS)).toBe(true);
    expect(l.loaded(100, FIRST_BYTE_MS)).toBe(false);
    expect(l.factor).toBe(1);
  });
});

describe('reports', () => {
  // What hls.js makes of the configuration, on a request of each kind.
  const asked = (fragment: Partial<Fragment> | null, bandwidthEstimate: number, url: string) => {
    let got = '';
    class Loader {
      load(context: { url: string }) {
        got = context.url;
      }
    }
    const hls = {
      config: { cmcd: reports('abcdefghijklmnopqrstuvwxyz'), loader: Loader } as Record<string, any>,
      sessionId: 'a-session', bandwidthEstimate, levels: [{ bitrate: 5_999_800, videoCodec: 'avc1' }], audioTracks: [{}], maxAutoLevel: 0,
      latestLevelDetails: { live: false }, mainForwardBufferInfo: { len: 12.34 }, logger: { warn: (_: string, e: unknown) => { throw e; } },
      on: () => undefined,
    };
    const Controller = Hls.DefaultConfig.cmcdController as any;
    const controller = new Controller(hls);
    controller.onManifestLoading();
    controller.media = { playbackRate: 1.5 };
    const frag = { type: 'main', level: 0, duration: 2.0024, url, ...fragment };
    new hls.config[fragment ? 'fLoader' : 'pLoader']({}).load(fragment ? { url, frag } : { url }, {}, {});
    return got;
  };
  it('says with segments what edges count, and not who watches', () => {
    expect(decodeURIComponent(asked({ sn: 1 }, 25_432_700, 'http://edge/v/-/a/r1/v1080/00000-1/00001.m4s'))).toBe(
      'http://edge/v/-/a/r1/v1080/00000-1/00001.m4s?CMCD=bl=12300,br=6000,cid="abcdefghijklmnopqrstuvwxyz",d=2002,mtp=25400,ot=v,sf=h,sid="a-session",st=v,su',
    );
  });
  it('leaves out what isn’t known yet, and other arguments as they are', () => {
    expect(decodeURIComponent(asked(null, NaN, 'http://router/v/-/a/master.m3u8?p=eu-1'))).toBe(
      'http://router/v/-/a/master.m3u8?p=eu-1&CMCD=cid="abcdefghijklmnopqrstuvwxyz",ot=m,sf=h,sid="a-session",st=v,su',
    );
  });
  it('draws a session for each playback', () => expect(reports('x').sessionId).toBeUndefined());
});

describe('scaled', () => {
  it('gives the measured timeouts', () => {
    const p = scaled(1);
    expect(p.fragLoadPolicy.default).toEqual({
      maxTimeToFirstByteMs: 2500,
      maxLoadTimeMs: 6000,
      timeoutRetry: null,
      errorRetry: { maxNumRetry: 1, retryDelayMs: 300, maxRetryDelayMs: 300 },
    });
    expect(p.playlistLoadPolicy).toEqual(p.fragLoadPolicy);
    expect(p.steeringManifestLoadPolicy.default).toMatchObject({ maxTimeToFirstByteMs: 1500, maxLoadTimeMs: 2000 });
  });
  it('stops at the caps and leaves steering quick', () => {
    const p = scaled(100);
    expect(p.fragLoadPolicy.default).toMatchObject({ maxTimeToFirstByteMs: FIRST_BYTE_CAP_MS, maxLoadTimeMs: LOAD_CAP_MS });
    expect(p.steeringManifestLoadPolicy).toEqual(scaled(1).steeringManifestLoadPolicy);
  });
});

describe('StallMeter', () => {
  const play = (samples: [now: number, position: number, ahead: number, wanted?: boolean][]) => {
    const m = new StallMeter();
    for (const [now, position, a, wanted] of samples) m.sample({ now, position, ahead: a, wanted: wanted ?? true });
    return [m.stalls, Number(m.stallSeconds.toFixed(2)), m.freezes];
  };
  it.each<[string, [number, number, number, boolean?][], number[]]>([
    ['progress', [[0, 0, 1], [600, 0.6, 0.5], [1200, 1.2, 0]], [0, 0, 0]],
    ['499 ms on an empty buffer', [[0, 1, 0], [499, 1, 0], [500, 1.1, 0]], [0, 0, 0]],
    ['one stall, whole length', [[0, 1, 0], [500, 1, 0], [1500, 1, 0], [1600, 1.1, 2]], [1, 1.5, 0]],
    ['two stalls', [[0, 1, 0], [700, 1, 0], [800, 1.1, 1], [1500, 1.1, 0]], [2, 1.4, 0]],
    ['paused', [[0, 1, 0], [900, 1, 0, false], [1000, 1, 0], [1400, 1, 0]], [0, 0, 0]],
    ['frozen with data', [[0, 1, 5], [900, 1, 5], [1800, 1, 5]], [0, 0, 1]],
    ['a late sample after progress', [[0, 1, 0], [5000, 6, 0]], [0, 0, 0]],
  ])('%s', (_, samples, want) => expect(play(samples)).toEqual(want));
});

it('FrameCounter adds up over a reset element', () => {
  const f = new FrameCounter();
  expect([10, 30, 5, 8].map((n) => f.sample(n))).toEqual([10, 30, 35, 38]);
});

it('ahead looks at the range under the playhead', () => {
  const ranges = (r: [number, number][]) =>
    ({ length: r.length, start: (i: number) => r[i]![0], end: (i: number) => r[i]![1] }) as TimeRanges;
  expect(ahead(ranges([[0, 4], [10, 12]]), 1)).toBe(3);
  expect(ahead(ranges([[0, 4], [10, 12]]), 5)).toBe(0);
  expect(ahead(ranges([[0.05, 4]]), 0)).toBe(4);
  expect(ahead(ranges([]), 0)).toBe(0);
});

it('only answers that another router may improve are asked for elsewhere', () => {
  expect([0, 404, 429, 500, 503].every(retryElsewhere)).toBe(true);
  expect([200, 302, 400, 401, 403, 410, 451].some(retryElsewhere)).toBe(false);
});

it('messages say what happens next', () => {
  expect(masterRefused(403)?.final).toBe(true);
  expect(masterRefused(410)?.title).toContain('removed');
  expect(masterRefused(503)).toBeNull();
  expect(reconnecting(1, false).title).toContain('offline');
  expect(reconnecting(9, true)).toMatchObject({ title: 'Still reconnecting', final: false });
});

it('polling gets rarer', () => {
  expect([0, 29, 30, 89, 90, 5000].map(delay)).toEqual([1000, 1000, 2000, 2000, 10_000, 10_000]);
});

it('stats are readable', () => {
  expect([0, NaN, 950, 64_000, 1_250_000].map(rate)).toEqual(['–', '–', '1 kbit/s', '64 kbit/s', '1.3 Mbit/s']);
  const s = { ...newState(), height: 720, bitrate: 2_500_000, stalls: 2, stallSeconds: 1.24, switches: 1, rungs: 3 };
  expect(Object.fromEntries(rows(s))).toMatchObject({ Rung: '720p · 2.5 Mbit/s', Stalls: '2 · 1.2 s', Switches: '1 edge · 2 rung' });
  expect(Object.fromEntries(rows(newState()))).toMatchObject({ Edge: '–', Rung: '–', Stalls: 'none', Switches: '0 edge · 0 rung' });
});
