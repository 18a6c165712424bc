import { describe, expect, it } from 'vitest';
import { HOLD_MS, RouterRing, absolute } from './routers';

const bases = ['http://127.1.0.1:8081', 'http://127.2.0.1:8081', 'http://127.3.0.1:8081/'];

describe('RouterRing', () => {
  it('starts at the router the URL names and keeps path and query', () => {
    const ring = new RouterRing(bases, () => 1);
    expect(ring.candidates('http://127.2.0.1:8081/steer?a=x&p=eu-1,us-1')).toEqual([
      'http://127.2.0.1:8081/steer?a=x&p=eu-1,us-1',
      'http://127.3.0.1:8081/steer?a=x&p=eu-1,us-1',
      'http://127.1.0.1:8081/steer?a=x&p=eu-1,us-1',
    ]);
  });
  it('leads from a router elsewhere to the others elsewhere first', () => {
    const ring = new RouterRing(bases, () => 1);
    expect(ring.candidates('http://127.3.0.1:8081/x').map((u) => u[11])).toEqual(['3', '2', '1']);
    ring.failed('http://127.3.0.1:8081/x');
    expect(ring.candidates('http://127.3.0.1:8081/x').map((u) => u[11])).toEqual(['2', '1', '3']);
  });
  it('leaves a URL of somebody else alone', () => {
    const ring = new RouterRing(bases, () => 1);
    expect(ring.has('http://127.1.0.1:80810/steer')).toBe(false);
    expect(ring.has('http://127.1.0.1:8081/steer')).toBe(true);
    expect(ring.candidates('http://127.1.0.1:80810/steer')).toEqual(['http://127.1.0.1:80810/steer']);
    expect(ring.candidates('http://edge/v')).toEqual(['http://edge/v']);
  });
  it('asks a router that failed last, until it answers or the hold is over', () => {
    let now = 100;
    const ring = new RouterRing(bases, () => now);
    const url = 'http://127.1.0.1:8081/steer';
    ring.failed(url);
    expect(ring.candidates(url)[0]).toBe('http://127.2.0.1:8081/steer');
    expect(ring.candidates(url)[2]).toBe(url);
    ring.answered(url);
    expect(ring.candidates(url)[0]).toBe(url);
    ring.failed(url);
    now += HOLD_MS;
    expect(ring.candidates(url)[0]).toBe(url);
  });
  it('with all failed asks the one that failed first', () => {
    let now = 100;
    const ring = new RouterRing(bases, () => now);
    for (const i of [2, 1, 3]) {
      ring.failed(`http://127.${i}.0.1:8081/x`);
      now++;
    }
    expect(ring.candidates('http://127.1.0.1:8081/x').map((u) => u[11])).toEqual(['2', '1', '3']);
  });
  it('counts a router once', () => {
    expect(new RouterRing(['http://a', 'http://a/', ''], () => 1).candidates('http://a/x')).toEqual(['http://a/x']);
  });
});

it('absolute resolves root-relative masters', () => {
  expect(absolute('/v/-/a/master.m3u8', 'http://r:1')).toBe('http://r:1/v/-/a/master.m3u8');
  expect(absolute('http://e/m', 'http://r:1')).toBe('http://e/m');
});
