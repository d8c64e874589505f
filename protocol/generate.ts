// SPDX-License-Identifier: Apache-2.0
/** Writes everything that is made from messages.ts (`npm run generate`); a test fails when a file is stale. */
import { readFileSync, writeFileSync } from 'node:fs'
import { header } from './generator/c.ts'
import { readme } from './generator/tables.ts'
import { codec } from './generator/typescript.ts'
import { vectors } from './generator/vectors.ts'

/** Text of each generated file, by its path relative to this folder. */
export const outputs = (): Map<string, string> =>
  new Map([
    ['generated/messages.ts', codec()],
    ['generated/smmu-cosim-protocol.h', header()],
    ['README.md', readme(readFileSync(new URL('README.md', import.meta.url), 'utf8'))],
    ['vectors.json', `${JSON.stringify(vectors(), null, 2)}\n`],
  ])

if (import.meta.main) {
  for (const [path, text] of outputs()) writeFileSync(new URL(path, import.meta.url), text)
}
