// SPDX-License-Identifier: Apache-2.0
/** What a worker has and allows, by its own command line: a job names nothing else. */
import { isDeepStrictEqual } from 'node:util'
import { digest } from '../../scripts/setup/cache.ts'
import { ensureQemu } from '../../scripts/setup/index.ts'
import { inTime } from '../control/inTime.ts'
import { parseSize } from '../machine/scratch.ts'
import { isSeries } from '../run/files.ts'
import { memoryProblem } from '../sessions/memoryLimit.ts'
import type { Transport } from '../trap/messages.ts'
import { difference, type Identity, kernelIdentity, machineIdentity, sourceIdentity } from './identity.ts'
import { type ImageSource, Images } from './images.ts'
import type { FleetJob } from './job.ts'

/** What of a worker's command line the machines of its jobs are made with. */
export interface OwnOptions {
  /** At a time: each has its part of the memory. */
  readonly jobs: number
  /** Kernels of one's own: images, and folders of builds. */
  readonly kernels: readonly string[]
  /** Where kernels and initramfs are looked for, by their hash, that are not among them. */
  readonly kernelsFrom?: ImageSource
  /** Of these kernels. */
  readonly modules?: string
  readonly initrd?: string
  readonly qemuArgs: readonly string[]
  readonly qemu?: string
  readonly ramDir: string
  readonly transport: Transport
  readonly sandbox: boolean
}

/** A machine's kernel and what goes with it, by names of the machine that runs it. */
export interface GuestFiles {
  readonly kernel: string
  readonly modules?: string
  readonly initrd?: string
}

/** Files of a machine besides its kernel: Debian's kernels have modules of their own. */
export const filesFor = (kernel: string, { modules, initrd }: Pick<OwnOptions, 'modules' | 'initrd'>) => ({
  ...(modules !== undefined && !isSeries(kernel) && { modules }),
  ...(initrd !== undefined && { initrd }),
})

/** Whether this worker runs a job, and with which files; an attack, which has no machine, has none. */
export type Answer = GuestFiles | { readonly refused: string }

export class Own {
  readonly #options: OwnOptions
  readonly #signal: AbortSignal
  readonly #images: Images | undefined
  readonly #setUp: typeof ensureQemu
  #qemu: Promise<string> | undefined

  /**
   * @param signal the worker's: set-up is for all jobs, and is not given up with one of them
   * @param setUp builds QEMU
   */
  constructor(
    options: OwnOptions,
    signal: AbortSignal,
    images = options.kernelsFrom && new Images(options.kernelsFrom),
    setUp = ensureQemu,
  ) {
    this.#options = options
    this.#signal = signal
    this.#images = images
    this.#setUp = setUp
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
    const problem = work.do === 'cell' ? memoryProblem(parseSize(work.memory), this.#options.jobs) : undefined
    if (problem !== undefined) return { refused: problem }
    const files = await this.#files(work.kernel, identity, signal)
    if ('refused' in files) return files
    const qemu = this.#options.qemu ?? (await inTime(this.#built(), signal))
    const different = difference(identity, await machineIdentity({ ...files, qemu }, signal))
    return different === '' ? files : { refused: different }
  }

  /** Once, for all jobs; what failed is tried again for the next one. */
  #built(): Promise<string> {
    this.#qemu ??= this.#setUp({ signal: this.#signal }).catch((error: unknown) => {
      this.#qemu = undefined
      throw error
    })
    return this.#qemu
  }

  /** A series is what it is called; of kernels of one's own, the one with that content: this worker's, or from where it looks for others. */
  async #files(name: string, identity: Identity, signal: AbortSignal): Promise<Answer> {
    const initrd = await this.#initrd(identity, signal)
    if (isSeries(name)) return { kernel: name, ...initrd }
    const { kernels, modules } = this.#options
    const own: string[] = []
    for (const kernel of kernels) {
      const sha256 = await kernelIdentity(kernel, modules, signal)
      if (sha256 === identity.kernel) return { kernel, ...(modules !== undefined && { modules }), ...initrd }
      own.push(sha256)
    }
    const wanted = `kernel: the job is of ${identity.kernel ?? 'none'} (${name})`
    const mine = `--kernel of this worker is ${own.join(', ') || 'none'}`
    if (this.#images === undefined || identity.kernel === undefined)
      return { refused: `${wanted}, ${mine}, and it has no --kernels-from` }
    // Its modules are in the initramfs: those of --modules are of another kernel.
    if (identity.initrd === undefined)
      return { refused: `${wanted}, ${mine}; --kernels-from is of use when the sender has --publish` }
    try {
      return { kernel: await this.#images.get(identity.kernel, signal), ...initrd }
    } catch (error) {
      signal.throwIfAborted()
      return { refused: `${wanted}, ${mine}; --kernels-from ${(error as Error).message}` }
    }
  }

  /** This worker's own, unless the job is of another one that can be had. @throws Error when it cannot */
  async #initrd({ initrd: wanted }: Identity, signal: AbortSignal): Promise<{ readonly initrd?: string }> {
    const { initrd } = this.#options
    const own = initrd === undefined ? undefined : await digest(initrd)
    if (wanted === undefined || wanted === own || this.#images === undefined) return { ...(initrd && { initrd }) }
    try {
      return { initrd: await this.#images.get(wanted, signal) }
    } catch (error) {
      signal.throwIfAborted()
      const mine = `this worker has ${own ?? 'none'}`
      throw new Error(`initramfs: the job is of ${wanted}, ${mine}; --kernels-from ${(error as Error).message}`)
    }
  }
}
