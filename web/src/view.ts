import 'media-chrome';
import { label } from './edges';
import type { Notice } from './messages';
import type { Page } from './page';
import { Player, type PlayerView } from './player';
import type { PlayerState } from './state';
import { rows } from './stats';

const icons = {
  stats: '<path d="M4 20V10m5.3 10V4m5.4 16v-8M20 20V7" />',
  link: '<path d="M10 14a4 4 0 0 0 5.7 0l3-3A4 4 0 0 0 13 5.3l-1 1m2 3.7a4 4 0 0 0-5.7 0l-3 3a4 4 0 0 0 5.7 5.7l1-1" />',
  sound: '<path d="M4 9.5v5h3.5L12 19V5L7.5 9.5zM16 9l5 6m0-6-5 6" />',
};

function icon(name: keyof typeof icons): string {
  return `<svg viewBox="0 0 24 24" aria-hidden="true" class="icon">${icons[name]}</svg>`;
}

/** html of the stage: no value of the page is put into it, those are set as text. */
const stage = `
  <media-controller hotkeys="noarrowup noarrowdown" tabindex="0">
    <video slot="media" playsinline crossorigin="anonymous"></video>
    <media-loading-indicator slot="centered-chrome" noautohide loadingdelay="300"></media-loading-indicator>
    <div class="controls">
    <media-time-range></media-time-range>
    <media-control-bar>
      <media-play-button></media-play-button>
      <media-mute-button></media-mute-button>
      <media-volume-range></media-volume-range>
      <media-time-display showduration notoggle></media-time-display>
      <span class="grow"></span>
      <media-captions-button></media-captions-button>
      <media-pip-button></media-pip-button>
      <media-fullscreen-button></media-fullscreen-button>
    </media-control-bar>
    </div>
  </media-controller>
  <button type="button" class="unmute" hidden>${icon('sound')}<span>Tap for sound</span></button>
  <dl class="stats" id="stats" aria-label="Statistics" hidden></dl>
  <div class="notice" role="status" aria-live="polite" hidden>
    <div><strong></strong><p></p><button type="button" class="again" hidden>Try again</button></div>
  </div>`;

const about = `
  <h1></h1>
  <div class="facts">
    <span class="edge" title="The edge your video comes from"><i></i><span class="at">Finding the nearest edge…</span></span>
    <span class="growing" hidden>Still encoding: the rest arrives as you watch</span>
    <span class="grow"></span>
    <button type="button" class="link">${icon('link')}<span>Copy link</span></button>
    <button type="button" class="toggle" aria-expanded="false" aria-controls="stats">${icon('stats')}<span>Stats</span></button>
  </div>`;

/** showPlayer puts the player into root and starts it. */
export function showPlayer(root: HTMLElement, page: Page): Player {
  root.innerHTML = `<section class="stage" aria-label="Video">${stage}</section><section class="about">${about}</section>`;
  const q = <T extends HTMLElement>(sel: string): T => root.querySelector<T>(sel)!;
  const video = q<HTMLVideoElement>('video');
  const controller = q('media-controller');
  q('h1').textContent = page.title || 'Untitled video';
  if (page.poster) video.poster = page.poster;

  const stats = q('.stats');
  const toggle = q('.toggle');
  const flip = () => {
    stats.hidden = !stats.hidden;
    toggle.setAttribute('aria-expanded', String(!stats.hidden));
  };
  toggle.addEventListener('click', flip);

  const link = q('.link');
  link.addEventListener('click', () => void copyLink(page, link.querySelector('span')!));

  const unmute = q('.unmute');
  unmute.addEventListener('click', () => (video.muted = false));
  video.addEventListener('volumechange', () => {
    if (!video.muted) unmute.hidden = true;
  });

  const view = new StageView(root, stats);
  const query = new URLSearchParams(location.search);
  const auto = page.embed ? query.get('autoplay') === '1' : query.get('autoplay') !== '0';
  const player = new Player(video, page, { update: (s, n) => view.update(s, n), muted: () => (unmute.hidden = false) }, auto);
  q('.again').addEventListener('click', () => player.restart());

  // The keys work wherever the focus is, not only inside the player.
  document.addEventListener('keydown', (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    if (e.key === 'i') flip();
    if (e.target !== document.body) return;
    if (e.key === ' ') e.preventDefault();
    for (const type of ['keydown', 'keyup']) controller.dispatchEvent(new KeyboardEvent(type, { key: e.key, code: e.code }));
  });
  return player;
}

class StageView implements Omit<PlayerView, 'muted'> {
  private shown = '';
  private edge = '';

  constructor(
    private readonly root: HTMLElement,
    private readonly stats: HTMLElement,
  ) {}

  update(state: PlayerState, notice: Notice | null): void {
    const q = <T extends HTMLElement>(sel: string): T => this.root.querySelector<T>(sel)!;
    if (state.edge !== this.edge) {
      const moved = this.edge !== '';
      this.edge = state.edge;
      const chip = q('.edge');
      chip.classList.add('live');
      if (moved) {
        chip.classList.remove('moved');
        // Reading the layout restarts the animation.
        void chip.offsetWidth;
        chip.classList.add('moved');
      }
      q('.at').textContent = label({ name: state.edge, place: state.place, region: '', url: '' });
    } else if (state.engine === 'native' && state.edge === '' && state.playing) {
      q('.at').textContent = 'Served by the nearest edge';
    }
    q('.growing').hidden = !state.growing;
    if (!this.stats.hidden) this.fill(rows(state));
    const key = notice ? notice.title + notice.detail : '';
    if (key === this.shown) return;
    this.shown = key;
    const box = q('.notice');
    box.hidden = notice === null;
    box.classList.toggle('final', notice?.final ?? false);
    q('.notice strong').textContent = notice?.title ?? '';
    q('.notice p').textContent = notice?.detail ?? '';
    q('.again').hidden = !(notice?.final ?? false);
  }

  private fill(pairs: [string, string][]): void {
    if (this.stats.childElementCount !== pairs.length * 2) {
      this.stats.replaceChildren(
        ...pairs.flatMap(() => [document.createElement('dt'), document.createElement('dd')]),
      );
    }
    pairs.forEach(([name, value], i) => {
      this.stats.children[2 * i]!.textContent = name;
      this.stats.children[2 * i + 1]!.textContent = value;
    });
  }
}

async function copyLink(page: Page, text: HTMLElement): Promise<void> {
  const url = new URL(location.href);
  if (page.embed) url.pathname = url.pathname.replace('/embed/', '/watch/');
  let done = 'Copied';
  try {
    await navigator.clipboard.writeText(url.href);
  } catch {
    // Without HTTPS browsers have no clipboard for pages; the address bar has the link.
    done = 'Copy it from the address bar';
  }
  text.textContent = done;
  setTimeout(() => (text.textContent = 'Copy link'), 2_000);
}
