// SPDX-License-Identifier: Apache-2.0
/** What a worker has and allows, by its own command line: a job names nothing else. */
import { isDeepStrictEqual } from 'node:util'
import { ensureQemu } from '../../scripts/setup/index.ts'
import { parseSize } from '../machine/scratch.ts'
import { isSeries } from '../run/files.ts'
import { fitsMemory } from '../sessions/memoryLimit.ts'
import type { Transport } from '../trap/messages.ts'
import { difference, kernelIdentity, machineIdentity, sourceIdentity } from './identity.ts'
import type { FleetJob } from './job.ts'

/** What of a worker's command line the machines of its jobs are made with. */
export interface OwnOptions {
  /** Kernels of one's own: images, and folders of builds. */
  readonly kernels: readonly string[]
  /** Of these kernels. */
  readonly modules?: string
  readonly initrd?: string
  readonly qemuArgs: readonly string[]
  readonly qemu?: string
  readonly ramDir: string
  readonly transport: Transport
  readonly sandbox: boolean
}

/** Files of a machine besides its kernel: Debian's kernels have modules of their own. */
export const filesFor = (kernel: string, { modules, initrd }: Pick<OwnOptions, 'modules' | 'initrd'>) => ({
  ...(modules !== undefined && !isSeries(kernel) && { modules }),
  ...(initrd !== undefined && { initrd }),
})

/** Whether this worker runs a job, and with which of its own kernels; an attack, which has no machine, has none. */
export type Answer = { readonly kernel: string } | { readonly refused: string }

export class Own {
  readonly #options: OwnOptions
  #qemu: Promise<string> | undefined

  constructor(options: OwnOptions) {
    this.#options = options
  }

  /**
   * A job runs by the code that it asks for, and with nothing that this worker was not given itself. What set-up makes is made.
   * @throws Error when something cannot be had that this worker should have
   */
  async answer({ identity, work }: FleetJob, signal: AbortSignal): Promise<Answer> {
    // First: other code may mean something else by all that follows.
    const source = await sourceIdentity()
    if (source !== identity.source) return { refused: difference(identity, { ...identity, source }) }
    if (work.do === 'attack') return { kernel: '' }
    const { qemuArgs } = this.#options
    if (!isDeepStrictEqual(work.qemuArgs ?? [], qemuArgs)) {
      const words = (list: readonly string[]) => list.map(word => `--qemu-arg=${word}`).join(' ') || 'no --qemu-arg'
      return {
        refused: `the job asks for ${words(work.qemuArgs ?? [])}, this worker was started with ${words(qemuArgs)}`,
      }
    }
    if (work.do === 'cell' && !fitsMemory(parseSize(work.memory))) {
      return { refused: `the job's machine has ${work.memory} of RAM, for which this worker has no memory` }
    }
    const kernel = await this.#kernel(work.kernel, identity.kernel, signal)
    if (kernel === undefined) {
      const wanted = `${identity.kernel ?? 'none'} (${work.kernel})`
      return { refused: `kernel: the job is of ${wanted}, and --kernel of this worker names no image with that hash` }
    }
    this.#qemu ??= this.#options.qemu === undefined ? ensureQemu({ signal }) : Promise.resolve(this.#options.qemu)
    const files = { kernel, qemu: await this.#qemu, ...filesFor(kernel, this.#options) }
    const different = difference(identity, await machineIdentity(files, signal))
    return different === '' ? { kernel } : { refused: different }
  }

  /** A series is what it is called; of kernels of one's own, the one with that content. */
  async #kernel(name: string, sha256: string | undefined, signal: AbortSignal): Promise<string | undefined> {
    if (isSeries(name)) return name
    for (const kernel of this.#options.kernels) {
      if ((await kernelIdentity(kernel, this.#options.modules, signal)) === sha256) return kernel
    }
    return undefined
  }
}
