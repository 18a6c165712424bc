// Has an hls.js that the page configures hold only LIMIT seconds, whatever it was
// told: these two are set when it merges its configuration.
for (const name of ['maxBufferLength', 'maxMaxBufferLength']) {
  Object.defineProperty(Object.prototype, name, {
    configurable: true,
    set() {
      Object.defineProperty(this, name, { configurable: true, enumerable: true, get: () => LIMIT, set: () => {} });
    },
  });
}
