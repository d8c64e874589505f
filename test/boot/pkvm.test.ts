// SPDX-License-Identifier: Apache-2.0
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { privateFolder } from '../../server/machine/scratch.ts'
import type { Report } from '../../server/run/runReport.ts'
import type { WarningSummary } from '../../server/trap/reporter.ts'
import type { StreamReport } from '../../server/trap/sections.ts'
import { cosim, type Run } from './cli.ts'

/** The sections that the policy adds to a report. */
interface PkvmReport extends Report {
  readonly isolated: boolean
  readonly warnings: readonly WarningSummary[]
  readonly commands: readonly { command: string; kept: number; dropped: number }[]
  readonly streams: readonly StreamReport[]
  readonly idmap: { readonly vttbr: string; readonly unmapped: number } | null
  readonly guardFaults: { readonly total: number }
}

/** A boot that did its whole workload, with no warning that an unmodified driver would not cause. */
function expectClean({ report, said, code }: Run, isolated = true): PkvmReport {
  expect(report?.message, said).toBeUndefined()
  expect(code).toBe(0)
  const pkvm = report as PkvmReport
  expect(pkvm.workload.filter(({ ok }) => ok)).toHaveLength(5)
  expect(pkvm.isolated).toBe(isolated)
  expect(pkvm.untranslated).toEqual([])
  expect(pkvm.warnings.filter(({ expected }) => !expected)).toEqual([])
  expect(pkvm.commands.filter(({ dropped }) => dropped > 0)).toEqual([])
  expect(pkvm.guardFaults.total).toBe(0)
  return pkvm
}

/** Every stream that the host attached goes through the idmap. */
function expectNested({ streams, idmap }: PkvmReport): void {
  expect(streams.map(({ device }) => device)).toEqual(['virtio-blk', 'nvme', 'virtio-net', 'e1000e'])
  for (const { shadowConfig, shadowTtb } of streams) {
    expect(shadowConfig).toBe('nested')
    expect(shadowTtb).toBe(idmap?.vttbr)
  }
}

describe('devices that go past the SMMU', () => {
  const BYPASS = ['--qemu-arg=-machine', '--qemu-arg=default_bus_bypass_iommu=on']

  test('are listed, and a workload on them says nothing of the policy', async () => {
    const { report, code, said, stderr } = await cosim(['boot', ...BYPASS])
    expect(code, said).toBe(1)
    expect(report?.outcome).toBe('guest-failed')
    expect(report?.message).toBe('no device of the workload went through the SMMU')
    expect(report?.isolated).toBe(false)
    expect(report?.untranslated?.map(({ name }) => name).sort()).toEqual(['e1000e', 'nvme', 'virtio-blk', 'virtio-net'])
    expect(stderr).toContain('devices are NOT isolated')
    expect(stderr).toContain('not behind the SMMU: nvme (nvme): its bus bypasses the SMMU')
  })

  test.each([
    ['a bus that bypasses it', BYPASS, /no DMA isolation: not behind the SMMU: .*nvme \(nvme: its bus bypasses/],
    ['a prefix of the series', ['--until', 'queues'], /no DMA isolation: --until queues attaches no second stage/],
    [
      'a policy without a second stage',
      ['--policy', 'passthrough'],
      /no DMA isolation: passthrough has no second stage/,
    ],
  ])('--require-isolation refuses %s before the guest runs', async (_, args, message) => {
    const { report, code, stdout, said } = await cosim(['boot', '--require-isolation', ...args])
    expect(code, said).toBe(1)
    expect(report?.message, said).toMatch(message)
    expect(stdout).not.toContain('Linux version')
  })
})

describe('the series, whole and in prefixes (server/hypervisor/README.md, section 10)', () => {
  test('nested is the default: Linux has no stage 2, the hardware has', async () => {
    const run = await cosim(['boot', '--require-isolation'])
    expect(run.stderr).toContain('  devices are isolated')
    const report = expectClean(run)
    expect(report.policy).toBe('pkvm')
    expect(report.until).toBe('nested')
    expectNested(report)
    expect(report.streams.map(({ hostConfig }) => hostConfig)).toEqual(['s1', 's1', 's1', 's1'])
    expect(report.idmap?.unmapped).toBe(0)
    // The one expected warning: CR0 is cleared at power-off (server/hypervisor/README.md, section 5.1).
    expect(report.warnings.map(({ code, count }) => [code, count])).toEqual([['HYP_QUEUE_DISABLED_AT_SHUTDOWN', 1]])
    // What Linux prints of IDR0: 2-level tables, HTTU and the like, but neither stage 2 nor VMID16.
    const features = Number(/arm-smmu-v3 .*\(features (0x[0-9a-f]+)\)/.exec(run.stdout)?.[1])
    expect(features & (1 << 10), 'ARM_SMMU_FEAT_TRANS_S2').toBe(0)
    expect(features & (1 << 9), 'ARM_SMMU_FEAT_TRANS_S1').not.toBe(0)
  })

  test.each(['mmio', 'cmdq', 'strtab', 'queues'])('--until %s', async until => {
    const run = await cosim(['boot', '--until', until])
    const report = expectClean(run, false)
    expect(run.stderr).toContain(`devices are NOT isolated, --until ${until} has no second stage`)
    expect(report.until).toBe(until)
    expect(report.idmap).toBeNull()
  })

  test.each([
    ['Debian’s 6.1 kernel', ['--kernel', '6.1']],
    ['two vCPUs', ['--smp', '2']],
    ['stage 2 in 64 KiB pages', ['--granule', '65536']],
    ['2 GiB of RAM', ['--memory', '2G']],
  ])('%s', async (_name, args) => {
    expectNested(expectClean(await cosim(['boot', ...args])))
  })

  test('a kernel that bypasses stage 1: stage 2 is still there', async () => {
    const report = expectClean(await cosim(['boot', '--append', 'iommu.passthrough=1']))
    for (const { hostConfig, shadowConfig, shadowTtb } of report.streams) {
      expect(hostConfig).toBe('bypass')
      expect(shadowConfig).toBe('s2')
      expect(shadowTtb).toBe(report.idmap?.vttbr)
    }
  })

  test('two reboots: hypervisor, tables and ownership start over each time', async () => {
    const run = await cosim(['boot', '--reboots', '2'])
    const report = expectClean(run)
    expectNested(report)
    expect(run.stdout.match(/Booting Linux on physical CPU/g)).toHaveLength(3)
    expect(report.warnings.map(({ code, count }) => [code, count])).toEqual([['HYP_QUEUE_DISABLED_AT_SHUTDOWN', 3]])
  })
})

describe('decisions of one’s own', () => {
  /** The policy that the README shows, with the import paths of this checkout. */
  function readmePolicy(folder: string): string {
    const root = fileURLToPath(new URL('../..', import.meta.url))
    const readme = readFileSync(join(root, 'README.md'), 'utf8')
    const code = /```ts\n([\s\S]*?)```/.exec(readme)?.[1] ?? ''
    const file = join(folder, 'policy.ts')
    writeFileSync(file, code.replaceAll("'./server/", `'${root}server/`))
    return file
  }

  test('the policy in the README boots and decides', async () => {
    const folder = privateFolder(tmpdir(), 'policy-')
    try {
      const run = await cosim(['boot', '--policy', readmePolicy(folder)])
      expect(run.report?.outcome, run.said).toBe('ok')
      expect(run.stdout).toMatch(/arm-smmu-v3 .*ias 40-bit, oas 40-bit/)
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  test('--panic-on-warn: the machine stands still at the trap, and the report reads like an oops', async () => {
    const folder = privateFolder(tmpdir(), 'policy-')
    try {
      const file = join(folder, 'policy.ts')
      const parts = new URL('../../server/hypervisor/pkvm/policy.ts', import.meta.url).href
      const refuse =
        'commands: { 0x46: () => (words, at, smmu) => { smmu.warn(HYP_COMMAND_REFUSED, words[at], 0, 0, 0); return 0 } }'
      const warnings = new URL('../../server/hypervisor/pkvm/warnings.ts', import.meta.url).href
      writeFileSync(
        file,
        `import { pkvm } from ${JSON.stringify(parts)}
         import { HYP_COMMAND_REFUSED } from ${JSON.stringify(warnings)}
         export default (machine, context) => pkvm(machine, context, { ${refuse} })`,
      )
      const { code, report, stderr } = await cosim(['boot', '--policy', file, '--panic-on-warn'])
      expect(code).toBe(1)
      expect(report?.outcome).toBe('hyp-panic')
      expect(report?.message).toMatch(
        /HYP_COMMAND_REFUSED \(server\/hypervisor\/README\.md#6-command-queue\) at trap \d+/,
      )
      for (const line of [/HYP_COMMAND_REFUSED/, /CMDQ_PROD/, /STRTAB/, /pc /i]) expect(stderr).toMatch(line)
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
})
