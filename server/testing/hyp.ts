// SPDX-License-Identifier: Apache-2.0
/** The hypervisor, as what calls it sees it. */
import type { Hello } from '../../protocol/generated/messages.ts'
import type { TrapThread } from '../control/trapThread.ts'
import { OK, resultName } from '../policy/result.ts'
import { hex } from '../smmu/bits.ts'
import type { OwnershipRange } from '../trap/operations.ts'
import type { StreamReport } from '../trap/sections.ts'
import type { Steps } from './steps.ts'

const PAGE = 4096

/** Whose a page is. */
export interface Owner {
  /** `hyp`: the hypervisor's; `shared`: the host's, and lent to the hypervisor. */
  readonly state: Exclude<OwnershipRange['state'], 'mixed'>
  /** 0 unless the state is `vm`. */
  readonly vm: number
}

/** Refused by the hypervisor: `code` is the name of its error number. */
export class HypError extends Error {
  readonly code: string

  constructor(what: string, result: number) {
    super(`${what}: ${resultName(result)}`)
    this.name = 'HypError'
    this.code = resultName(result)
  }
}

/** Guest physical addresses: bytes. */
export interface Range {
  readonly base: number
  readonly size: number
}

export class Hyp {
  /** Its own memory, at the top of RAM. */
  readonly memory: Range
  /** The register frames of the SMMUs. */
  readonly frames: readonly Range[]
  readonly #thread: TrapThread
  readonly #steps: Steps

  constructor(thread: TrapThread, { carveoutBase, carveoutSize, smmus }: Hello, steps: Steps) {
    this.memory = { base: carveoutBase, size: carveoutSize }
    this.frames = smmus.map(({ base, size }) => ({ base, size }))
    this.#thread = thread
    this.#steps = steps
  }

  /**
   * Gives pages of the host to a VM, as the start of a protected VM would: from then on neither the host nor its devices reach them.
   * @param options `size` in bytes, a page by default
   * @throws HypError when the hypervisor refuses: EPERM for pages that are not the host's alone
   */
  donate(page: number, { vm = 1, size = PAGE }: { readonly vm?: number; readonly size?: number } = {}): Promise<void> {
    return this.#move('donate', page, vm, size)
  }

  /** Takes pages back from a VM, zeroed. @throws HypError when they are not that VM's */
  reclaim(page: number, { vm = 1, size = PAGE }: { readonly vm?: number; readonly size?: number } = {}): Promise<void> {
    return this.#move('reclaim', page, vm, size)
  }

  /** @throws OperationError when the policy keeps no ownership */
  async owner(page: number): Promise<Owner> {
    const [run] = await this.#thread.call('ownership', page, page + PAGE, 1)
    if (run === undefined) return { state: 'not RAM', vm: 0 }
    const { state, vm } = run
    if (state === 'mixed') throw new Error(`${hex(page)}: not one page`)
    return { state, vm }
  }

  /** The streams that the host has configured. */
  async streams(): Promise<readonly StreamReport[]> {
    const { streams = [] } = (await this.#thread.call('sections')) as { readonly streams?: readonly StreamReport[] }
    return streams
  }

  #move(what: 'donate' | 'reclaim', page: number, vm: number, size: number): Promise<void> {
    const text = `hyp.${what} ${hex(page)} ${size} vm ${vm}`
    return this.#steps.step(text, async () => {
      if (page % PAGE !== 0 || size % PAGE !== 0 || size <= 0)
        throw new Error(`${text}: not whole pages of ${PAGE} bytes`)
      const result = await this.#thread.call(what, page, size, vm)
      if (result !== OK) throw new HypError(text, result)
    })
  }
}
