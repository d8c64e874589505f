// SPDX-License-Identifier: Apache-2.0
/**
 * What a switch of the policy costs a Linux: whole boots with it, and without it, in turn (server/hypervisor/README.md, sections 9, 19
 * and 20). What the hypervisor itself spends is in the part `scale`.
 */
import type { Report } from '../../server/run/runReport.ts'
import { bootOnce, bootSeconds, readMicroseconds } from './boots.ts'
import type { Context, Figure, Part } from './figure.ts'
import { inPairs } from './stats.ts'

/** A server's copy of EL2's tables works with any processor, EL2's own only with one that an SMMU can follow: the same for both. */
const EL2 = ['--el2', 'pkvm', '--qemu-arg=-cpu', '--qemu-arg=cortex-a76']

interface Switch {
  readonly what: string
  readonly on: { readonly label: string; readonly args: readonly string[] }
  readonly off: { readonly label: string; readonly args: readonly string[] }
}

const SWITCHES: readonly Switch[] = [
  {
    what: '--blocks',
    on: { label: 'RAM in blocks', args: ['--blocks'] },
    off: { label: 'in pages', args: [] },
  },
  {
    what: '--power keep',
    on: { label: 'an SMMU that can be switched off', args: ['--power', 'keep'] },
    off: { label: 'always on', args: [] },
  },
  {
    what: '--stage2 shared',
    on: { label: 'EL2’s own tables', args: [...EL2, '--stage2', 'shared'] },
    off: { label: 'a copy', args: EL2 },
  },
]

const changeUs = ({ el2 }: Report): number | undefined => el2?.serverUs.p50

export async function benchSwitches(context: Context): Promise<Part> {
  const { scale, signal, say } = context
  const figures: Figure[] = []
  for (const { what, on, off } of SWITCHES) {
    if (scale.warmUp) {
      say(`switches: ${what}, warm-up`)
      await bootOnce(context, ...on.args)
    }
    const { a, b } = await inPairs(
      scale.pairs,
      signal,
      pair => {
        say(`switches: ${what}, pair ${pair + 1} of ${scale.pairs}`)
        return bootOnce(context, ...on.args)
      },
      () => bootOnce(context, ...off.args),
    )
    const figure = (text: string, unit: string, of: (report: Report) => number): Figure => ({
      ...{ bench: 'switches', what: `${what}: ${text}`, unit },
      a: { label: on.label, values: a.map(of) },
      b: { label: off.label, values: b.map(of) },
    })
    figures.push(
      figure('boot to userspace', 's', bootSeconds),
      figure('4-KiB read, virtio-blk', 'µs', readMicroseconds('virtio-blk')),
      figure('4-KiB read, nvme', 'µs', readMicroseconds('nvme')),
    )
    if (a.every(report => changeUs(report) !== undefined))
      figures.push(figure('one change of EL2’s tables, in the server, p50', 'µs', report => changeUs(report) ?? 0))
  }
  return { figures }
}
