// Notes what the page's video does, whoever plays it; the program drains it.
window.bench = (() => {
  const every = 100;
  const max = 4000;
  const samples = [];
  const errors = [];
  const now = () => performance.timeOrigin + performance.now();
  const ahead = (v) => {
    for (let i = 0; i < v.buffered.length; i++) {
      if (v.buffered.start(i) <= v.currentTime + 0.1 && v.currentTime < v.buffered.end(i)) return v.buffered.end(i) - v.currentTime;
    }
    return 0;
  };
  setInterval(() => {
    const v = document.querySelector('video');
    if (v && samples.length < max) samples.push({ at: now(), position: v.currentTime, ahead: ahead(v), ended: v.ended });
  }, every);
  return {
    error: (text) => errors.length < 100 && errors.push(String(text)),
    drain: () => ({ samples: samples.splice(0), errors: errors.splice(0) }),
  };
})();
