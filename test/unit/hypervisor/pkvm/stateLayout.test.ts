// SPDX-License-Identifier: Apache-2.0
/** What a checkpoint holds: nothing is forgotten (server/hypervisor/README.md, section 16). */
import { readdirSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { StateLayout } from '../../../../server/hypervisor/pkvm/stateLayout.ts'

interface Example {
  address: number
  on: boolean
  index: number
}

describe('a layout', () => {
  const layout = new StateLayout<Example>({ address: 'u53', on: 'flag', index: 'u32' })

  test('saves in its own order, whatever the order of the state', () => {
    const words = new Uint32Array(6).fill(7)
    expect(layout.words).toBe(4)
    expect(layout.save({ index: 0xffff_ffff, on: true, address: 0x12_3456_789a_bcde }, words, 1)).toBe(5)
    expect([...words]).toEqual([7, 0x789a_bcde, 0x12_3456, 1, 0xffff_ffff, 7])
    expect(layout.load(words, 1)).toEqual({ address: 0x12_3456_789a_bcde, on: true, index: 0xffff_ffff })
  })

  test('does not compile without a field, or with a wrong kind', () => {
    // @ts-expect-error: `index` is forgotten
    new StateLayout<Example>({ address: 'u53', on: 'flag' })
    // @ts-expect-error: `on` is no number
    new StateLayout<Example>({ address: 'u53', on: 'u32', index: 'u32' })
  })
})

/**
 * Fields of the hypervisor's classes that change while it runs and are in no state object. Each is here with the reason why
 * a checkpoint does not need it.
 */
const TRANSIENT: Readonly<Record<string, readonly string[]>> = {
  // Encoded bytes; words of a Writer and a Reader.
  'checkpoint.ts': ['#buffer', '#bytes', '#restChecksum', 'words', 'length', 'at'],
  // Follow from the registers; filled by resume.
  'hostCmdq.ts': ['#address', '#log2size', '#alreadyIssued', '#sent'],
  // Follows from the registers.
  'hostStrtab.ts': ['#table'],
  // All of it is read again from EL2's tables, and then anything may have been taken.
  'hostStage2.ts': ['#budget', '#changes', '#geometry', '#touched', 'mayHaveTaken', 'forcesWriteBack'],
  // In HypervisorState.
  'donations.ts': ['operation'],
  // Read again from EL2's tables; a figure of the report.
  'followEl2.ts': ['host', 'forgotten'],
  // In HypervisorState; counters of changes; of the trap at hand.
  'hypervisor.ts': ['stage2', 'isolated', '#guarded', 'generation', '#changed', 'trap'],
  // Of one build.
  'idmapBuild.ts': ['#batch'],
  'idmapLayout.ts': ['#cursor'],
  // In HypervisorState, by ranges.
  'ownership.ts': ['generation'],
  // In HypervisorState, by runs; what follows from them.
  'pool.ts': ['#lowest', '#clean', '#limit', 'used', 'peak', 'failures', 'generation'],
  // Of the operation at hand.
  'shadowCmdq.ts': ['#own', '#full', 'timedOut', 'origin'],
  // Of the trap at hand; found again by resume.
  'shadowStrtab.ts': ['#renewed', '#aborts'],
  // Of the change at hand: a successor, which reads all again, forgets all before it answers.
  'sharedStage2.ts': ['stale', '#lo', '#hi'],
  'wait.ts': ['#spent'],
}

test('every field that changes is in a state that a checkpoint holds, or known not to be needed', () => {
  const folders = ['pkvm', 'common'].map(name =>
    fileURLToPath(new URL(`../../../../server/hypervisor/${name}/`, import.meta.url)),
  )
  const found: Record<string, string[]> = {}
  for (const path of folders.flatMap(folder => readdirSync(folder).map(file => join(folder, file)))) {
    const file = basename(path)
    const classes = [...readFileSync(path, 'utf8').matchAll(/^(?:export )?class .*?^}$/gms)].join('\n')
    const members = classes.matchAll(
      /^ {2}(?!readonly |get |set |static |private )(#?\w+)(?:: [^(\n]+)?(?: = [^\n]+)?$/gm,
    )
    const names = [...members].map(([, name = '']) => name).sort()
    if (names.length > 0) found[file] = names
  }
  expect(found).toEqual(Object.fromEntries(Object.entries(TRANSIENT).map(([file, names]) => [file, [...names].sort()])))
})
