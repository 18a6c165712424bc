import { defineConfig } from 'vite';

// The bundle has no index.html: the Go package renders the page and reads the
// manifest to find the hashed names.
export default defineConfig({
  base: '/',
  publicDir: false,
  build: {
    outDir: 'dist',
    assetsDir: 'assets',
    emptyOutDir: true,
    manifest: 'manifest.json',
    target: 'es2022',
    // hls.js and media-chrome are most of it, and every visit needs both.
    chunkSizeWarningLimit: 900,
    rolldownOptions: { input: 'src/main.ts' },
  },
});
