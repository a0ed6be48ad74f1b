// sigstore-js behind the command line of the Sigstore conformance suite (docs/cli_protocol.md, verify-bundle).
import crypto from 'node:crypto';
import fs from 'node:fs';
import { parseArgs } from 'node:util';
import { bundleFromJSON } from '@sigstore/bundle';
import { TrustedRoot } from '@sigstore/protobuf-specs';

const { values: flags, positionals: [command, artifact] } = parseArgs({
  allowPositionals: true,
  options: {
    engine: { type: 'string', default: '3' }, // beside the suite's: major version of @sigstore/verify
    bundle: { type: 'string' },
    'trusted-root': { type: 'string' },
    'certificate-identity': { type: 'string' },
    'certificate-oidc-issuer': { type: 'string' },
    key: { type: 'string' },
  },
});

const engines = { 3: '@sigstore/verify', 4: 'sigstore-verify-4' };
const json = (file) => JSON.parse(fs.readFileSync(file, 'utf8'));

// The pattern of an identity is a regular expression for sigstore-js.
const exactly = (text) => `^${text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')}$`;

function keys() {
  if (!flags.key) return undefined;
  const publicKey = crypto.createPublicKey(fs.readFileSync(flags.key));
  return () => ({ publicKey, validFor: () => true });
}

// A release statement is inside its envelope; only a message signature needs the artifact.
function blob(bundle) {
  if (bundle.content.$case === 'messageSignature') return fs.readFileSync(artifact);
  const { subject } = JSON.parse(bundle.content.dsseEnvelope.payload.toString());
  const digest = crypto.createHash('sha256').update(fs.readFileSync(artifact)).digest('hex');
  if (!subject.some((s) => s.digest.sha256 === digest)) throw new Error('the statement is about another artifact');
  return undefined;
}

async function verify() {
  const { toSignedEntity, toTrustMaterial, Verifier } = await import(engines[flags.engine]);
  const bundle = bundleFromJSON(json(flags.bundle));
  const empty = { mediaType: 'application/vnd.dev.sigstore.trustedroot+json;version=0.1', tlogs: [], certificateAuthorities: [], ctlogs: [], timestampAuthorities: [] };
  const trust = toTrustMaterial(TrustedRoot.fromJSON(flags['trusted-root'] ? json(flags['trusted-root']) : empty), keys());
  // A release that is signed with a key carries no proof of a log or of time: the key is in the policy itself.
  const thresholds = flags['trusted-root']
    ? { tlogThreshold: 1, ctlogThreshold: 1, timestampThreshold: 1 }
    : { tlogThreshold: 0, ctlogThreshold: 0, timestampThreshold: 0 };
  const policy = flags['certificate-identity'] && {
    subjectAlternativeName: exactly(flags['certificate-identity']),
    extensions: { issuer: flags['certificate-oidc-issuer'] },
  };
  new Verifier(trust, thresholds).verify(toSignedEntity(bundle, blob(bundle)), policy);
}

if (command !== 'verify-bundle' || !flags.bundle || !artifact || !engines[flags.engine]) {
  console.error('sigstore.mjs: verify-bundle --bundle FILE (--certificate-identity ID --certificate-oidc-issuer URL | --key PEM) [--trusted-root FILE] ARTIFACT');
  process.exit(2);
}
try {
  await verify();
} catch (error) {
  console.error(`${error.code ?? error.constructor.name}: ${error.message}`);
  process.exit(1);
}
