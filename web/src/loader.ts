import {
  LoaderContextType,
  XhrLoader,
  type HlsConfig,
  type Loader,
  type LoaderCallbacks,
  type LoaderConfiguration,
  type LoaderContext,
} from 'hls.js';
import type { RouterRing } from './routers';

const WATCH_MS = 250;

export interface LoaderReport {
  /** A router was left for the next one. */
  routerFailed(url: string, why: string): void;
  /** The first bytes of something a router serves. */
  routerAnswered(url: string, type: string): void;
}

/** retryElsewhere says whether another router may answer better. */
export function retryElsewhere(status: number): boolean {
  return status === 0 || status === 404 || status === 408 || status === 429 || status >= 500;
}

/**
 * loaderClass makes the loader hls.js uses for everything. Masters and steering
 * manifests come from routers: one that doesn't answer is replaced by the next
 * within the same request, so a dead router never costs a refresh. Anything
 * else comes from edges, in the plain form by a router's redirect, and a body
 * that stops arriving is given up after the time allowed for the first byte.
 */
export function loaderClass(ring: RouterRing, report: LoaderReport): new (config: HlsConfig) => Loader<LoaderContext> {
  class MeridianLoader extends XhrLoader {
    private readonly hlsConfig: HlsConfig;
    private inner: XhrLoader | null = null;
    private watch: ReturnType<typeof setInterval> | undefined;

    constructor(config: HlsConfig) {
      super(config);
      this.hlsConfig = config;
    }

    override load(context: LoaderContext, config: LoaderConfiguration, callbacks: LoaderCallbacks<LoaderContext>): void {
      const type = (context as { type?: string }).type ?? '';
      const routed = type === LoaderContextType.MANIFEST || type === LoaderContextType.STEERING_MANIFEST;
      if (routed && /^https?:/.test(context.url)) {
        const urls = ring.candidates(context.url);
        // A single router gets a second chance.
        if (urls.length === 1) urls.push(urls[0]!);
        this.stats.loading.start = performance.now();
        this.attempt(urls, 0, context, config, callbacks, type);
        return;
      }
      // In the plain form a router redirects every request.
      const url = ring.has(context.url) ? ring.candidates(context.url)[0]! : context.url;
      const failed = (why: string) => {
        clearInterval(this.watch);
        if (!ring.has(url)) return;
        // It or the edge it sent us to: the next router may know better.
        ring.failed(url);
        report.routerFailed(url, why);
      };
      super.load({ ...context, url }, config, {
        ...callbacks,
        onSuccess: (response, stats, _, details) => {
          clearInterval(this.watch);
          ring.answered(url);
          callbacks.onSuccess(response, stats, context, details);
        },
        onError: (error, _, details, stats) => {
          failed(`status ${error.code}`);
          callbacks.onError(error, context, details, stats);
        },
        onTimeout: (stats, _, details) => {
          failed('timeout');
          callbacks.onTimeout(stats, context, details);
        },
        onAbort: (stats, _, details) => callbacks.onAbort?.(stats, context, details),
        onProgress: callbacks.onProgress && ((stats, _, data, details) => callbacks.onProgress?.(stats, context, data, details)),
      });
      this.watchBody(config.loadPolicy.maxTimeToFirstByteMs);
    }

    private attempt(
      urls: string[],
      n: number,
      context: LoaderContext,
      config: LoaderConfiguration,
      callbacks: LoaderCallbacks<LoaderContext>,
      type: string,
    ): void {
      const url = urls[n]!;
      const inner = new XhrLoader(this.hlsConfig);
      this.inner = inner;
      const next = (why: string): boolean => {
        ring.failed(url);
        report.routerFailed(url, why);
        if (n + 1 >= urls.length) return false;
        inner.destroy();
        this.attempt(urls, n + 1, context, config, callbacks, type);
        return true;
      };
      inner.load({ ...context, url }, { ...config, loadPolicy: { ...config.loadPolicy, errorRetry: null, timeoutRetry: null } }, {
        onSuccess: (response, stats, _, details) => {
          ring.answered(url);
          report.routerAnswered(url, type);
          this.stats = stats;
          callbacks.onSuccess(response, stats, context, details);
        },
        onError: (error, _, details, stats) => {
          if (retryElsewhere(error.code) && next(`status ${error.code}`)) return;
          // For hls.js 429 and 410 end steering for good; a proxy's word isn't worth that.
          const steering = type === LoaderContextType.STEERING_MANIFEST;
          const code = steering && (error.code === 429 || error.code === 410) ? 503 : error.code;
          this.stats = stats;
          callbacks.onError({ ...error, code }, context, details, stats);
        },
        onTimeout: (stats, _, details) => {
          if (next('timeout')) return;
          this.stats = stats;
          callbacks.onTimeout(stats, context, details);
        },
        onAbort: (stats, _, details) => callbacks.onAbort?.(stats, context, details),
      });
    }

    private watchBody(idleMs: number): void {
      if (!Number.isFinite(idleMs)) return;
      let seen = -1;
      let since = 0;
      this.watch = setInterval(() => {
        const { stats, callbacks, context } = this;
        if (!callbacks || !context || stats.aborted) {
          clearInterval(this.watch);
          return;
        }
        const now = performance.now();
        if (stats.loading.first === 0 || stats.loaded !== seen) {
          seen = stats.loading.first === 0 ? -1 : stats.loaded;
          since = now;
          return;
        }
        if (now - since < idleMs) return;
        clearInterval(this.watch);
        this.abortInternal();
        callbacks.onTimeout(stats, context, this.getNetworkDetails());
      }, WATCH_MS);
    }

    override abort(): void {
      clearInterval(this.watch);
      if (this.inner) this.inner.abort();
      else super.abort();
    }

    override destroy(): void {
      clearInterval(this.watch);
      this.inner?.destroy();
      this.inner = null;
      super.destroy();
    }

    override getCacheAge(): number | null {
      return this.inner ? this.inner.getCacheAge() : super.getCacheAge();
    }

    override getResponseHeader(name: string): string | null {
      return this.inner ? this.inner.getResponseHeader(name) : super.getResponseHeader(name);
    }
  }
  return MeridianLoader as unknown as new (config: HlsConfig) => Loader<LoaderContext>;
}
