// SPDX-License-Identifier: Apache-2.0
/** Translation in TypeScript: boots in which the server answers every IOTLB miss, and SoftSmmu by itself. */
import type { Report } from '../../server/run/runReport.ts'
import { CMDQ_OP_TLBI_NH_VA, cmdSync } from '../../server/smmu/commands.ts'
import * as R from '../../server/smmu/registers.ts'
import { SoftSmmu } from '../../server/smmu/soft/softSmmu.ts'
import { STRTAB_STE_0_CFG_NESTED } from '../../server/smmu/ste.ts'
import type { TranslateReport } from '../../server/translate/translator.ts'
import { Builder, RAM_BASE, S2_RW, transaction } from '../unit/smmu/support.ts'
import { bootOnce } from './boots.ts'
import type { Context, Figure, Part } from './figure.ts'
import { inPairs } from './stats.ts'

const SID = 5
const ASID = 1
const VA = 0xffff_0000_0000n
const PAGES = 256
const PAGE = 4096
const CMDQ_LOG2 = 8
/** TLBI, CMD_SYNC, and the translation. */
const OPERATIONS = 3

/** Four levels of 4-KiB pages in both stages, and a queue full of "unmap a page". */
function nestedSmmu() {
  const builder = new Builder()
  const strtab = builder.alloc(64 * 16)
  const queue = builder.alloc(16 << CMDQ_LOG2)
  const s1 = builder.stage(false, 48)
  const s2 = builder.stage(true, 44, 12, 0)
  const cd = builder.cd({ t0: s1, asid: ASID })
  builder.ste({ config: STRTAB_STE_0_CFG_NESTED, cd, stage2: s2 }, strtab + 64 * SID)
  const { memory } = builder
  for (let i = 0; i < PAGES; i++) builder.map(s1, VA + BigInt(i * PAGE), BigInt(RAM_BASE + i * PAGE))
  for (let at = RAM_BASE; at < RAM_BASE + memory.bytes.length; at += PAGE) {
    builder.map(s2, BigInt(at), BigInt(at), S2_RW)
  }
  const words = new Uint32Array(memory.bytes.buffer, queue - RAM_BASE, 4 << CMDQ_LOG2)
  for (let at = 0, page = 0; at < words.length; at += 8, page++) {
    words[at] = CMDQ_OP_TLBI_NH_VA
    words[at + 1] = ASID << 16
    words[at + 2] = page * PAGE + 1 // leaf
    words[at + 3] = Number(VA >> 32n)
    cmdSync(words, 0, at + 4)
  }
  const smmu = new SoftSmmu(memory, { caching: 'walks' })
  smmu.write(R.ARM_SMMU_STRTAB_BASE, 8, strtab, 0)
  smmu.write(R.ARM_SMMU_STRTAB_BASE_CFG, 4, 4, 0)
  smmu.write(R.ARM_SMMU_CMDQ_BASE, 8, queue + CMDQ_LOG2, 0)
  smmu.write(R.ARM_SMMU_CR0, 4, R.CR0_SMMUEN | R.CR0_CMDQEN, 0)
  const t = transaction(SID, VA)
  let prod = 0
  const translate = (page: number): void => {
    t.lo = page * PAGE
    if (smmu.translate(t).kind !== 'translated') throw new Error('SoftSmmu did not translate')
  }
  const unmap = (): number => {
    const page = (prod % (1 << CMDQ_LOG2)) / 2
    prod = (prod + 2) % (2 << CMDQ_LOG2)
    smmu.write(R.ARM_SMMU_CMDQ_PROD, 4, prod, 0)
    return page
  }
  return { hit: (i: number) => translate(i % PAGES), miss: () => translate(unmap()) }
}

/** Calls a second, millions. */
function rate(count: number, call: (i: number) => void): number {
  const start = performance.now()
  for (let i = 0; i < count; i++) call(i)
  return count / (performance.now() - start) / 1000
}

/** The guest's own time for everything that it did with its devices, s. */
const workloadSeconds = ({ workload }: Report): number =>
  workload.reduce((sum, { ms }) => {
    if (ms === undefined) throw new Error('a workload entry has no time')
    return sum + ms / 1000
  }, 0)

const readUs =
  (device: string) =>
  ({ bench = [] }: Report): number => {
    const entry = bench.find(e => e.device === device)
    if (entry === undefined) throw new Error(`no timed reads of ${device}`)
    return (entry.ms / entry.reads) * 1000
  }

const translation =
  (q: 'medianUs' | 'p99Us') =>
  (report: Report): number =>
    (report.translate as TranslateReport)[q]

export async function benchTranslate(context: Context): Promise<Part> {
  const { scale, signal, say } = context
  const { hit, miss } = nestedSmmu()
  const hits: number[] = []
  const misses: number[] = []
  // The compiler's time is not SoftSmmu's.
  rate(scale.commands / 4, hit)
  rate(scale.commands / 4, miss)
  for (let round = 0; round < scale.pairs; round++) {
    say(`translate: SoftSmmu, round ${round + 1} of ${scale.pairs}`)
    hits.push(rate(scale.commands, hit))
    misses.push(rate(scale.commands / OPERATIONS, miss) * OPERATIONS)
  }
  const { a, b } = await inPairs(
    scale.pairs,
    signal,
    pair => {
      say(`translate: pair ${pair + 1} of ${scale.pairs}`)
      return bootOnce(context, '--translate', 'server')
    },
    () => bootOnce(context),
  )
  const soft = (what: string, values: number[]): Figure => ({
    ...{ bench: 'translate', what, unit: 'M/s', target: '≥ 0.1 M/s', a: { label: 'SoftSmmu, nested', values } },
  })
  const alone = (what: string, q: 'medianUs' | 'p99Us'): Figure => ({
    ...{ bench: 'translate', what, unit: 'µs', a: { label: 'server', values: a.map(translation(q)) } },
  })
  const compare = (what: string, unit: string, of: (r: Report) => number): Figure => ({
    ...{ bench: 'translate', what, unit, a: { label: 'server', values: a.map(of) } },
    b: { label: 'hardware', values: b.map(of) },
  })
  return {
    figures: [
      alone('server’s time for one IOTLB miss, p50', 'medianUs'),
      alone('server’s time for one IOTLB miss, p99', 'p99Us'),
      { ...compare('the whole workload', 's', workloadSeconds), target: '≤ 1.10 ×' },
      compare('4-KiB read, virtio-blk', 'µs', readUs('virtio-blk')),
      compare('4-KiB read, nvme', 'µs', readUs('nvme')),
      soft('translations that the TLB has', hits),
      soft('TLBI, CMD_SYNC, translation of the page: operations', misses),
    ],
  }
}
