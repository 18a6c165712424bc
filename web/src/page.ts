/** What the server says about the page, from the JSON island it renders. */

export interface Edge {
  name: string;
  region: string;
  place: string;
  url: string;
}

export interface Page {
  kind: 'player' | 'preparing' | 'problem';
  asset: string;
  title: string;
  state: string;
  /** Root-relative or absolute URL of the master playlist. */
  master: string;
  poster: string;
  /** Base URLs of all routers, the one that served this page first. */
  routers: string[];
  duration: number;
  embed: boolean;
  edges: Edge[];
  /** For problems: what happened, what happens next, and whether asking again can help. */
  detail: string;
  retry: boolean;
}

export const islandId = 'meridian-page';

function text(v: unknown): string {
  return typeof v === 'string' ? v : '';
}

function list(v: unknown): unknown[] {
  return Array.isArray(v) ? v : [];
}

/** parsePage reads the island; it returns null when the document isn't one of our pages. */
export function parsePage(json: string | null | undefined): Page | null {
  let raw: unknown;
  try {
    raw = JSON.parse(json ?? '');
  } catch {
    return null;
  }
  if (typeof raw !== 'object' || raw === null) return null;
  const o = raw as Record<string, unknown>;
  const kind = o.kind;
  if (kind !== 'player' && kind !== 'preparing' && kind !== 'problem') return null;
  return {
    kind,
    asset: text(o.asset),
    title: text(o.title),
    state: text(o.state),
    master: text(o.master),
    poster: text(o.poster),
    routers: list(o.routers).map(text).filter(Boolean),
    duration: typeof o.duration === 'number' && o.duration > 0 ? o.duration : 0,
    embed: o.embed === true,
    edges: list(o.edges)
      .map((e) => {
        const r = (typeof e === 'object' && e !== null ? e : {}) as Record<string, unknown>;
        return { name: text(r.name), region: text(r.region), place: text(r.place), url: text(r.url) };
      })
      .filter((e) => e.name !== '' && e.url !== ''),
    detail: text(o.detail),
    retry: o.retry === true,
  };
}

export function readPage(doc: Document): Page | null {
  return parsePage(doc.getElementById(islandId)?.textContent);
}
