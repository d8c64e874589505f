// SPDX-License-Identifier: Apache-2.0

import type { OwnedRange, Reach } from '../../api/schemas/pages.ts'
import { hex } from '../../smmu/bits.ts'

const OWNERS: Readonly<Record<string, string>> = {
  owned: 'is the host’s',
  shared: 'is shared by the host with the hypervisor',
  hyp: 'is the hypervisor’s',
  'not RAM': 'is not RAM',
  mixed: 'is in a range with several owners',
}

const owner = ({ state, vm }: OwnedRange): string =>
  state === 'vm' ? `belongs to VM ${vm}` : (OWNERS[state] ?? `is ${state}`)

const REASONS: Readonly<Record<string, string>> = {
  EPERM: 'A page in the range is not in the state that this needs.',
  EBUSY: 'A page in the range is pinned.',
  EFAULT: 'Not all of the range is RAM.',
  EINVAL: 'The range is not aligned to the granule.',
  ENODEV: 'This machine is not isolated by a stage 2.',
}

/**
 * Which page stood in the way, and whose it is.
 * @param vm that pages were to be given to, or taken from
 * @param ranges of the pages that were asked for, as they are now
 * @param reach what devices have mapped
 */
export function refusal(
  what: 'donate' | 'reclaim',
  vm: number,
  result: string,
  ranges: readonly OwnedRange[],
  reach: readonly Reach[],
): string {
  const fits = (range: OwnedRange) =>
    what === 'donate' ? range.state === 'owned' : range.state === 'vm' && range.vm === vm
  const wrong = ranges.find(range => !fits(range))
  if (wrong !== undefined && result !== 'EINVAL' && result !== 'ENODEV')
    return `The page at ${wrong.base} ${owner(wrong)}.`
  if (result === 'EBUSY') {
    for (const { device, sid, mapped } of reach) {
      for (const { base, size, iova } of mapped) {
        const hit = ranges.find(r => Number(base) < Number(r.base) + r.size && Number(base) + size > Number(r.base))
        if (hit === undefined) continue
        const page = hex(Math.max(Number(base), Number(hit.base)))
        return `The page at ${page} is the host’s, and mapped for DMA of ${device?.name ?? hex(sid)} at IOVA ${iova}.`
      }
    }
  }
  return REASONS[result] ?? ''
}
