import { describe, expect, it } from 'vitest';
import Hls, { ContentSteeringController, ErrorController, ErrorDetails, ErrorTypes, Events, type ErrorData } from 'hls.js';
import { HostErrorController, PathwayWatch, Penalties, isHostFailure } from './failover';
import { PENALTY_MS } from './policies';

const failure = (details: ErrorDetails, code?: number, type = ErrorTypes.NETWORK_ERROR) =>
  ({ type, details, response: code === undefined ? undefined : { code, url: '', data: undefined } }) as unknown as ErrorData;

describe('isHostFailure', () => {
  it.each([
    [ErrorDetails.FRAG_LOAD_ERROR, 0, true],
    [ErrorDetails.FRAG_LOAD_ERROR, 503, true],
    [ErrorDetails.FRAG_LOAD_ERROR, 404, true],
    [ErrorDetails.FRAG_LOAD_TIMEOUT, undefined, true],
    [ErrorDetails.LEVEL_LOAD_ERROR, 500, true],
    [ErrorDetails.AUDIO_TRACK_LOAD_TIMEOUT, undefined, true],
    [ErrorDetails.PLAYLIST_UNCHANGED_ERROR, undefined, true],
    [ErrorDetails.LEVEL_LOAD_ERROR, 403, false],
    [ErrorDetails.FRAG_LOAD_ERROR, 410, false],
    [ErrorDetails.MANIFEST_LOAD_ERROR, 0, false],
    [ErrorDetails.KEY_LOAD_ERROR, 0, false],
  ])('%s %s: %s', (details, code, want) => expect(isHostFailure(failure(details, code))).toBe(want));
  it('isn’t for media errors', () =>
    expect(isHostFailure(failure(ErrorDetails.FRAG_LOAD_ERROR, 0, ErrorTypes.MEDIA_ERROR))).toBe(false));
});

describe('the internals of hls.js we rely on', () => {
  it('is the version they were read in', () => expect(Hls.version).toBe('1.7.4'));
  it('has the methods we override', () => {
    const errors = ErrorController.prototype as unknown as Record<string, unknown>;
    expect(typeof errors.getLevelSwitchAction).toBe('function');
    expect(typeof errors.getFragRetryOrSwitchAction).toBe('function');
    const steering = ContentSteeringController.prototype as unknown as Record<string, unknown>;
    expect(typeof steering.updatePathwayPriority).toBe('function');
    expect(Object.getOwnPropertyDescriptor(ContentSteeringController.prototype, 'pathwayPriority')?.set).toBeTypeOf('function');
  });
  it('calls them from where we think', () => {
    const errors = ErrorController.prototype as unknown as Record<string, () => void>;
    expect(String(errors.onError)).toContain('getFragRetryOrSwitchAction');
    expect(String(errors.getFragRetryOrSwitchAction)).toContain('getLevelSwitchAction');
    expect(String(errors.getPlaylistRetryOrSwitchAction)).toContain('getLevelSwitchAction');
    const steering = ContentSteeringController.prototype as unknown as Record<string, () => void>;
    expect(String(steering.updatePathwayPriority)).toContain('penalizedPathways');
    expect(String(steering.onError)).toContain('penalizedPathways');
    expect(Events.BUFFERED_TO_END).toBe('hlsBufferedToEnd');
  });
});

describe('HostErrorController', () => {
  const decide = (details: ErrorDetails, code: number | undefined, retried: boolean) => {
    const retry = { maxNumRetry: 1, retryDelayMs: 300, maxRetryDelayMs: 300 };
    const level = { loadError: 0, fragmentError: retried ? 1 : 0 };
    const policy = { default: { errorRetry: retry, timeoutRetry: null } };
    const controller = Object.create(HostErrorController.prototype);
    controller.hls = {
      levels: [level, { ...level, fragmentError: 0 }],
      loadLevel: 0, minAutoLevel: 0, maxAutoLevel: 1, autoLevelEnabled: true,
      config: { fragLoadPolicy: policy, keyLoadPolicy: policy, errorPenaltyExpireMs: 0 },
    };
    return controller.getFragRetryOrSwitchAction({ ...failure(details, code), frag: { type: 'main', level: 0 } });
  };
  it('retries a broken response once', () => expect(decide(ErrorDetails.FRAG_LOAD_ERROR, 503, false).action).toBe(5));
  it('then moves away from the host, without leaving a gap', () =>
    expect(decide(ErrorDetails.FRAG_LOAD_ERROR, 503, true)).toEqual({ action: 2, flags: 1 }));
  it('moves at once on a timeout', () => expect(decide(ErrorDetails.FRAG_LOAD_TIMEOUT, undefined, false)).toEqual({ action: 2, flags: 1 }));
});

describe('Penalties', () => {
  it('are forgotten after 10 s, and after twice as long for each further failure', () => {
    const p = new Penalties();
    const held: Record<string, number> = { 'eu-1': 1_000 };
    p.drop(held, 1_000 + PENALTY_MS - 1);
    expect(held).toHaveProperty('eu-1');
    p.drop(held, 1_000 + PENALTY_MS);
    expect(held).toEqual({});
    held['eu-1'] = 20_000;
    p.drop(held, 20_000 + 2 * PENALTY_MS - 1);
    expect(held).toHaveProperty('eu-1');
    p.drop(held, 20_000 + 2 * PENALTY_MS);
    expect(held).toEqual({});
    p.served('eu-1');
    held['eu-1'] = 60_000;
    p.drop(held, 60_000 + PENALTY_MS);
    expect(held).toEqual({});
  });
  it('never last longer than 160 s', () => {
    const p = new Penalties();
    const held: Record<string, number> = {};
    for (let n = 0; n < 20; n++) {
      held.x = n * 1e6 + 1;
      p.drop(held, n * 1e6 + 1);
      p.drop(held, n * 1e6 + 1 + 16 * PENALTY_MS);
      expect(held).toEqual({});
    }
  });
});

it('PathwayWatch tells changes from the first and from none', () => {
  const w = new PathwayWatch();
  expect(['eu-1', 'eu-1', undefined, 'us-1', 'us-1', 'eu-1'].map((p) => w.moved(p))).toEqual([false, false, false, true, false, true]);
});
