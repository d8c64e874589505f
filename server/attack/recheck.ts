// SPDX-License-Identifier: Apache-2.0
/**
 * What an attack begins with: cases of the corpus and of known weaknesses, performed again. On a thread of its own, because it
 * runs a policy, which may loop.
 */
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { parentPort, workerData } from 'node:worker_threads'
import { loadPolicy } from '../policy/load.ts'
import type { PolicyFactory } from '../policy/policy.ts'
import { decodeCase, replay } from './cases.ts'
import { PROGRAMS, readText } from './files.ts'
import { kindsOf, mended, readKnown, type Weakness } from './known.ts'
import type { Found, Recheck, RecheckOptions } from './messages.ts'

function regressions(corpus: string, factory: PolicyFactory, known: readonly Weakness[]): Found[] {
  const found: Found[] = []
  for (const name of readdirSync(corpus).sort()) {
    if (!name.endsWith('.json') || name === PROGRAMS) continue
    const file = join(corpus, name)
    const case_ = decodeCase(readText(file), file)
    const finding = replay(case_, factory, kindsOf(known, case_.setup))
    if (finding === undefined) continue
    const { kind, message } = finding
    found.push({ found: { ...case_, kind, message }, file, seconds: undefined })
  }
  return found
}

const { policy, quirks, corpus, known: file } = workerData as RecheckOptions
const known = file === undefined ? [] : readKnown(file)
const { factory } = await loadPolicy(policy, quirks)
const result: Recheck = {
  known,
  mended: file === undefined ? [] : mended(file, known, factory),
  cases: corpus === undefined || !existsSync(corpus) ? [] : regressions(corpus, factory, known),
}
parentPort?.postMessage(result)
