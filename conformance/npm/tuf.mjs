// tuf-js behind the command line of the TUF conformance suite (tuf-conformance, CLIENT-CLI.md).
import fs from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';

const { values: flags, positionals: [command, root] } = parseArgs({
  allowPositionals: true,
  options: {
    'metadata-url': { type: 'string' },
    'metadata-dir': { type: 'string' },
    'target-name': { type: 'string', multiple: true },
    'target-dir': { type: 'string' },
    'target-base-url': { type: 'string' },
    now: { type: 'string' }, // beside the suite's: the time that counts, ISO 8601
  },
});

if (flags.now) {
  const Real = Date;
  const fixed = Real.parse(flags.now);
  globalThis.Date = class extends Real {
    constructor(...args) { args.length ? super(...args) : super(fixed); }
    static now() { return fixed; }
  };
}

// The clock above has to be set before tuf-js is loaded.
const { Updater } = await import('tuf-js');

function updater() {
  return new Updater({
    metadataBaseUrl: flags['metadata-url'],
    metadataDir: flags['metadata-dir'],
    targetDir: flags['target-dir'],
    targetBaseUrl: flags['target-base-url'],
    config: { fetchTimeout: 20000 },
  });
}

async function download() {
  const client = updater();
  await client.refresh();
  for (const name of flags['target-name']) {
    const info = await client.getTargetInfo(name);
    if (!info) throw new Error(`target ${name} is not in the repository`);
    const file = path.join(flags['target-dir'], encodeURIComponent(name));
    const cached = await client.findCachedTarget(info, file);
    console.log(cached ?? await client.downloadTarget(info, file));
  }
}

try {
  switch (command) {
    case 'init':
      fs.mkdirSync(flags['metadata-dir'], { recursive: true });
      fs.copyFileSync(root, path.join(flags['metadata-dir'], 'root.json'));
      break;
    case 'refresh':
      await updater().refresh();
      break;
    case 'download':
      await download();
      break;
    default:
      console.error('tuf.mjs: init, refresh or download');
      process.exit(2);
  }
} catch (error) {
  console.error(`${error.constructor.name}: ${error.message}${error.statusCode ? ` (${error.statusCode})` : ''}${error.cause ? ` (${error.cause})` : ''}`);
  process.exit(1);
}
