// SPDX-License-Identifier: Apache-2.0
/** A driver that is not Linux's (scripts/guest/bare/smmu.c) on the real QEMU with the policy `full`, and on `pkvm`, which refuses it. */
import { tmpdir } from 'node:os'
import { expect, test } from 'vitest'
import { ensureBareDriver } from '../../scripts/setup/bareGuest.ts'
import { ensureQemu } from '../../scripts/setup/index.ts'
import { Session } from '../../server/control/session.ts'
import { ownFolder, Scratch } from '../../server/machine/scratch.ts'
import type { OracleReport } from '../../server/trap/oracleReport.ts'
import type { WarningSummary } from '../../server/trap/reporter.ts'
import { transport } from '../transport.ts'
import { EDU_ARGS } from './edu.ts'

const MiB = 2 ** 20
const RAM = 0x4000_0000
const MEMORY_MIB = 128
const CARVEOUT_MIB = 32
const HYPERVISOR = RAM + (MEMORY_MIB - CARVEOUT_MIB) * MiB

/** What the driver found, and what the server says of it. */
async function run(policy: string) {
  const scratch = new Scratch()
  const folder = ownFolder(tmpdir(), 'full-')
  try {
    const session = await Session.start({
      scratch,
      runFolder: folder.path,
      machine: {
        binary: await ensureQemu(),
        kernel: await ensureBareDriver(HYPERVISOR),
        sandbox: true,
        append: '',
        memory: `${MEMORY_MIB}M`,
        smp: 1,
        network: false,
        extra: ['-no-reboot', ...EDU_ARGS],
      },
      policy: {
        name: policy,
        options: { requireIsolation: true },
        panicOnWarn: false,
        oracle: true,
        carveout: `${CARVEOUT_MIB}M`,
        transport: transport(),
      },
    })
    const lines: string[] = []
    session.console.on('line', line => {
      if (line.startsWith('bare ')) lines.push(line.trim())
    })
    const timer = setTimeout(() => void session.stop(), 60_000)
    const end = await session.ended
    clearTimeout(timer)
    return { lines, sections: end.sections, panic: end.panic, errors: end.qemuErrors }
  } finally {
    scratch.remove()
    folder.remove()
  }
}

test('a driver that does all that the architecture allows runs on full, isolated', async () => {
  const { lines, sections, panic, errors } = await run('full')
  expect(lines.filter(line => line.includes('failed'))).toEqual([])
  expect(lines.at(-1), errors).toBe('bare done')
  expect(lines.length).toBeGreaterThan(40)
  expect(panic).toBeUndefined()
  expect(sections.isolated).toBe(true)
  const warnings = (sections.warnings ?? []) as readonly WarningSummary[]
  // The one is of the command that is illegal on purpose.
  expect(warnings.map(({ code }) => code)).toEqual(['HYP_CMDQ_STOPPED'])
  const oracle = sections.oracle as OracleReport | undefined
  expect(oracle?.samples).toBeGreaterThan(5)
  expect(oracle?.violations).toEqual([])
}, 120_000)

test('pkvm refuses it, and says what it was', async () => {
  const { lines, sections } = await run('pkvm')
  expect(lines).toContainEqual(expect.stringMatching(/^bare STRTAB_BASE by halves failed/))
  const codes = ((sections.warnings ?? []) as readonly WarningSummary[]).map(({ code }) => code)
  expect(codes).toEqual(expect.arrayContaining(['HYP_ACCESS_WIDTH', 'HYP_SMMUEN_WITHOUT_CMDQ']))
}, 120_000)
