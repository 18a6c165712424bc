/** Notices: what happened, and what happens next. */
export interface Notice {
  title: string;
  detail: string;
  /** final: nothing more happens by itself; the viewer may try again. */
  final: boolean;
}

/** masterRefused explains an answer that is the same at every router, or returns null. */
export function masterRefused(status: number): Notice | null {
  switch (status) {
    case 401:
    case 403:
      return {
        title: 'This link can’t play the video',
        detail: 'It has expired, or isn’t meant for this place or site. Ask whoever shared it for a new link.',
        final: true,
      };
    case 410:
      return { title: 'This video was removed', detail: 'Its owner deleted it, so it can’t be played any more.', final: true };
    case 451:
      return { title: 'This video isn’t available', detail: 'It was taken down and can’t be played.', final: true };
    default:
      return null;
  }
}

/** reconnecting is shown while the ladder runs and nothing is left to play. */
export function reconnecting(attempt: number, online: boolean): Notice {
  if (!online) {
    return { title: 'You’re offline', detail: 'The video goes on by itself as soon as the connection is back.', final: false };
  }
  if (attempt <= 3) {
    return { title: 'Reconnecting', detail: 'The connection broke. Trying another server.', final: false };
  }
  return {
    title: 'Still reconnecting',
    detail: 'No server answers right now. The video goes on by itself from here as soon as one does.',
    final: false,
  };
}

export const notFound: Notice = {
  title: 'This video isn’t here yet',
  detail: 'We’ll keep looking. If it was just uploaded, it starts by itself.',
  final: false,
};

export const cannotDecode: Notice = {
  title: 'This browser can’t play the video',
  detail: 'It failed to decode it, more than once. Try again, or open the page in another browser.',
  final: true,
};

export const unsupported: Notice = {
  title: 'This browser can’t play the video',
  detail: 'It supports neither Media Source Extensions nor HLS. A current Chrome, Edge, Firefox or Safari does.',
  final: true,
};
