import type { Edge } from './page';

/** Names the edge that answered a request, from its URL. */
export class EdgeDirectory {
  private readonly byHost = new Map<string, Edge>();

  constructor(edges: readonly Edge[]) {
    for (const e of edges) {
      const host = hostOf(e.url);
      if (host) this.byHost.set(host, e);
    }
  }

  /** find returns the edge behind url; one that isn't in the table is named by its host. */
  find(url: string): Edge | null {
    const host = hostOf(url);
    if (!host) return null;
    return this.byHost.get(host) ?? { name: host, region: '', place: '', url: '' };
  }
}

function hostOf(url: string): string | null {
  try {
    const u = new URL(url);
    return u.protocol === 'http:' || u.protocol === 'https:' ? u.host : null;
  } catch {
    return null;
  }
}

/** label is what viewers read: "Frankfurt · eu-1". */
export function label(e: Edge): string {
  return e.place ? `${e.place} · ${e.name}` : e.name;
}
