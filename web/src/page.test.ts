import { describe, expect, it } from 'vitest';
import { parsePage } from './page';

describe('parsePage', () => {
  it('reads what the server writes', () => {
    const page = parsePage(
      '{"kind":"player","asset":"a","title":"T","state":"ready","master":"/v/-/a/master.m3u8","poster":"","routers":["http://r"],"duration":3,"embed":true,"edges":[{"name":"eu-1","region":"eu","place":"Frankfurt","url":"http://e"}],"detail":"","retry":false}',
    );
    expect(page).toMatchObject({ kind: 'player', master: '/v/-/a/master.m3u8', routers: ['http://r'], duration: 3, embed: true });
    expect(page?.edges).toEqual([{ name: 'eu-1', region: 'eu', place: 'Frankfurt', url: 'http://e' }]);
  });
  it('refuses what isn’t a page of ours', () => {
    for (const bad of [null, undefined, '', '{', 'null', '[]', '3', '{}', '{"kind":"other"}']) expect(parsePage(bad)).toBeNull();
  });
  it('drops fields of another type', () => {
    const page = parsePage('{"kind":"player","title":3,"routers":[1,"http://r",null],"duration":"x","edges":[null,{"name":"n"},7]}');
    expect(page).toMatchObject({ title: '', routers: ['http://r'], duration: 0, edges: [] });
  });
});
