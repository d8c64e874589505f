// SPDX-License-Identifier: Apache-2.0
/** The guest, through the agent in it. */
import type { GuestAgent } from '../machine/guestAgent.ts'
import type { Steps } from './steps.ts'

/** What a command printed is kept up to so many bytes; more ends it. */
const MAX_OUTPUT = 16 << 20
const TIMEOUT_MS = 30_000

/** What became of a command. */
export interface CommandResult {
  /** Exit code; 128 and the signal's number for a command that a signal ended. */
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

export class Guest {
  readonly #agent: GuestAgent
  readonly #steps: Steps

  constructor(agent: GuestAgent, steps: Steps) {
    this.#agent = agent
    this.#steps = steps
  }

  /**
   * Runs a command by /bin/sh; the guest has busybox. Several may run at a time.
   * @param options `timeout` in ms, 30,000 by default
   * @throws Error when it is not done in time, or the machine ends. An exit code that is not 0 is a result.
   */
  run(command: string, { timeout = TIMEOUT_MS }: { readonly timeout?: number } = {}): Promise<CommandResult> {
    return this.#steps.step(`guest.run ${JSON.stringify(command)}`, async () => {
      const output: Record<'stdout' | 'stderr', Buffer[]> = { stdout: [], stderr: [] }
      let bytes = 0
      const stop = new AbortController()
      let why: string | undefined
      const end = (reason: string) => {
        why ??= reason
        stop.abort()
      }
      const timer = setTimeout(() => end(`was not done after ${timeout} ms`), timeout)
      try {
        const take = (stream: 'stdout' | 'stderr', chunk: Buffer) => {
          bytes += chunk.length
          if (bytes > MAX_OUTPUT) end(`printed more than ${MAX_OUTPUT} bytes`)
          else output[stream].push(chunk)
        }
        const code = await this.#agent.run(command, take, stop.signal)
        if (why !== undefined) throw new Error(`${JSON.stringify(command)} ${why}`)
        const text = (stream: 'stdout' | 'stderr') => Buffer.concat(output[stream]).toString('utf8')
        return { code, stdout: text('stdout'), stderr: text('stderr') }
      } finally {
        clearTimeout(timer)
      }
    })
  }

  /**
   * Memory of the guest, zeroed, physically contiguous, and pinned: the kernel does not move it.
   * @param bytes up to a page, or a huge page (2 MiB with pages of 4 KiB) for more
   * @returns its physical address
   */
  allocate(bytes: number): Promise<number> {
    return this.#steps.step(`guest.allocate ${bytes}`, () => this.#agent.allocate(bytes))
  }

  /** Gives memory back to the kernel. Not what a VM has: the kernel would touch it. @param address as `allocate` returned it */
  free(address: number): Promise<void> {
    return this.#steps.step(`guest.free 0x${address.toString(16)}`, () => this.#agent.free(address))
  }

  /** Reads allocated memory with the CPU. @throws Error, with SIGBUS in it, when the CPU is kept from it */
  read(address: number, length = 8): Promise<Buffer> {
    return this.#steps.step(`guest.read 0x${address.toString(16)} ${length}`, () => this.#agent.read(address, length))
  }

  /** Writes allocated memory with the CPU. @throws Error, with SIGBUS in it, when the CPU is kept from it */
  write(address: number, bytes: Uint8Array): Promise<void> {
    return this.#steps.step(`guest.write 0x${address.toString(16)} ${bytes.length}`, () =>
      this.#agent.write(address, bytes),
    )
  }
}
