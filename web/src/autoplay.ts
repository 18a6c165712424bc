/**
 * autoplay starts the video with sound, or, where the browser wants a gesture
 * first, without. It says which it was.
 */
export async function autoplay(video: HTMLVideoElement): Promise<'sound' | 'muted' | 'blocked'> {
  const wasMuted = video.muted;
  if (await started(video)) return wasMuted ? 'muted' : 'sound';
  if (wasMuted) return 'blocked';
  video.muted = true;
  if (await started(video)) return 'muted';
  video.muted = false;
  return 'blocked';
}

async function started(video: HTMLVideoElement): Promise<boolean> {
  try {
    await video.play();
    return true;
  } catch (err) {
    // AbortError: something else paused or reloaded it; that isn't the browser's refusal.
    return !(err instanceof DOMException && err.name === 'NotAllowedError');
  }
}
