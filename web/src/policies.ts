import type { CMCDControllerConfig, HlsConfig, LoaderConfig, LoadPolicy } from 'hls.js';

/**
 * Timeouts measured to move a viewer off a hung region without a stall. Shorter
 * ones are dangerous: where every region is slower than the timeout, all get
 * penalised. So they grow when playback fails everywhere, see scaled().
 */
export const FIRST_BYTE_MS = 2_500;
export const LOAD_MS = 6_000;
export const FIRST_BYTE_CAP_MS = 20_000;
export const LOAD_CAP_MS = 40_000;
export const STEERING_FIRST_BYTE_MS = 1_500;
export const STEERING_LOAD_MS = 2_000;
/** A pathway or a rung that failed is tried again after this long. */
export const PENALTY_MS = 10_000;

type Policies = Pick<
  HlsConfig,
  'manifestLoadPolicy' | 'playlistLoadPolicy' | 'fragLoadPolicy' | 'steeringManifestLoadPolicy'
>;

const once = { maxNumRetry: 1, retryDelayMs: 300, maxRetryDelayMs: 300 };

function policy(firstByte: number, load: number, errorRetry: LoaderConfig['errorRetry']): LoadPolicy {
  return { default: { maxTimeToFirstByteMs: firstByte, maxLoadTimeMs: load, timeoutRetry: null, errorRetry } };
}

/** scaled gives the load policies with their timeouts multiplied, up to the caps. */
export function scaled(factor: number): Policies {
  const first = Math.min(FIRST_BYTE_MS * factor, FIRST_BYTE_CAP_MS);
  const load = Math.min(LOAD_MS * factor, LOAD_CAP_MS);
  return {
    // The loader itself goes round the routers, so hls.js needs no retry here.
    manifestLoadPolicy: policy(first, load, null),
    playlistLoadPolicy: policy(first, load, once),
    fragLoadPolicy: policy(first, load, once),
    steeringManifestLoadPolicy: policy(STEERING_FIRST_BYTE_MS, STEERING_LOAD_MS, null),
  };
}

/** Everything else of the hls.js configuration that doesn't depend on the page. */
export const tuning: Partial<HlsConfig> = {
  startPosition: 0,
  liveMaxUnchangedPlaylistRefresh: 3,
  errorPenaltyExpireMs: PENALTY_MS,
  lowLatencyMode: false,
  backBufferLength: 60,
  maxBufferLength: 30,
  // Segments are fMP4: nothing is transmuxed, a worker would only copy them twice.
  enableWorker: false,
  emeEnabled: false,
  capLevelToPlayerSize: false,
};

/**
 * reports says what edges are told about playback (CMCD, version 1): what they
 * count, the asset, and a session id that hls.js draws anew for every playback.
 * Nothing of it tells who watches. It goes into the query, because header fields
 * would cost a preflight for every segment; what this costs is the browser's own
 * cache, which a new query misses.
 */
export function reports(asset: string): CMCDControllerConfig {
  return { contentId: asset, includeKeys: ['bl', 'br', 'bs', 'cid', 'd', 'mtp', 'ot', 'sf', 'sid', 'st', 'su'] };
}
