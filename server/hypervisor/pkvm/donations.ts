// SPDX-License-Identifier: Apache-2.0
/**
 * Pages that go to a protected VM and come back (server/hypervisor/README.md, section 8): ownership, second stage and the CPU's guard, in an
 * order in which nobody has both. What has begun is in the checkpoint: should the server die, the next one finishes it.
 */
import { PAGE_DONATE, PAGE_RECLAIM } from '../../policy/report.ts'
import { EFAULT, EINVAL, ENODEV, ENOMEM, EPERM, OK } from '../../policy/result.ts'
import type { PageOperation } from './checkpoint.ts'
import { zero } from './pool.ts'
import type { MachineContext, Stage2 } from './stage2.ts'

export class Donations {
  /** What has begun; null outside of a donation or reclaim. */
  operation: PageOperation | null = null
  readonly #hyp: MachineContext

  constructor(hyp: MachineContext) {
    this.#hyp = hyp
  }

  /** Gives pages of the host to a protected VM: neither vCPUs nor devices reach them when this is OK. Bytes. */
  donate(base: number, size: number, vm: number): number {
    const { stage2, ownership } = this.#hyp
    if (stage2 === null) return ENODEV
    const refused = this.#refuse(base, size)
    if (refused !== OK) return refused
    const donated = ownership.donate(base, size, vm)
    if (donated !== OK) return donated
    return this.#finish({ operation: PAGE_DONATE, base, size, vm }, () => this.#revoke(stage2, base, size, vm))
  }

  /** Takes pages back from a protected VM, zeroed. Bytes. */
  reclaim(base: number, size: number, vm: number): number {
    const { stage2, ownership } = this.#hyp
    if (stage2 === null) return ENODEV
    const refused = this.#refuse(base, size)
    if (refused !== OK) return refused
    const owned = ownership.checkVm(base, size, vm)
    if (owned !== OK) return owned
    return this.#finish({ operation: PAGE_RECLAIM, base, size, vm }, () => this.#returnToHost(stage2, base, size, vm))
  }

  #refuse(base: number, size: number): number {
    const { followed, granule } = this.#hyp
    if (followed) return EPERM
    return base % granule === 0 && size % granule === 0 ? OK : EINVAL
  }

  /** Does what must not be left undone once it has begun. */
  #finish(operation: PageOperation, act: () => number): number {
    this.operation = operation
    this.#hyp.keepState()
    try {
      return act()
    } finally {
      this.operation = null
      this.#hyp.changed()
    }
  }

  /** Of a donation, all but the ownership; may be done twice. */
  #revoke(stage2: Stage2, base: number, size: number, vm: number): number {
    const { ownership, machine, wait } = this.#hyp
    wait.begin()
    const result = stage2.take(base, size)
    if (result === OK && machine.guard.add(base, size)) return OK
    ownership.reclaim(base, size, vm)
    stage2.giveBack(base, size)
    // A hypervisor that took over in the middle has guarded it already.
    machine.guard.remove(base, size)
    return result === OK ? ENOMEM : result
  }

  /** Of a reclaim, all but the checks; may be done twice. */
  #returnToHost(stage2: Stage2, base: number, size: number, vm: number): number {
    const { ownership, machine, memory } = this.#hyp
    if (!zero(memory, base, size)) return EFAULT
    if (!machine.guard.remove(base, size)) return ENOMEM
    const reclaimed = ownership.reclaim(base, size, vm)
    if (reclaimed === OK) stage2.give(base, size)
    return reclaimed
  }

  /** After a take-over: finishes what a former hypervisor had begun. @returns what was done, in words; none: nothing had begun */
  resume(): string[] {
    const { stage2, report } = this.#hyp
    if (stage2 === null || this.operation === null) return []
    const { operation, base, size, vm } = this.operation
    const donation = operation === PAGE_DONATE
    stage2.adopt(base, size)
    const result = donation ? this.#revoke(stage2, base, size, vm) : this.#returnToHost(stage2, base, size, vm)
    report.pages(operation, base, size, vm, result)
    stage2.keepTables()
    this.operation = null
    // Or the next one would finish it again: a page that was given back would be zeroed once more.
    this.#hyp.keepState()
    return [`the ${donation ? 'donation' : 'reclaim'} of ${size} bytes at 0x${base.toString(16)} was finished`]
  }
}
