// SPDX-License-Identifier: Apache-2.0
/** A guest that does nothing but trap, and its machine. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Session } from '../../server/control/session.ts'
import { newRunFolder } from '../../server/machine/runs.ts'
import { Scratch } from '../../server/machine/scratch.ts'
import { DEFAULTS } from '../../server/run/options.ts'
import type { Percentiles } from '../../server/trace/histogram.ts'
import type { Transport } from '../../server/trap/messages.ts'

const MEMORY = '64M'
const SMMU_BASE = 0x0905_0000
const PSCI_SYSTEM_OFF = 0x8400_0008
const DEADLINE_MS = 120_000

/** Answers at once, without asking the hardware. */
export const INSTANT = fileURLToPath(new URL('./instantPolicy.ts', import.meta.url))

const movz = (register: number, value: number, shift: 0 | 16) =>
  (0xd280_0000 | (shift << 17) | (value << 5) | register) >>> 0
const movk = (register: number, value: number, shift: 0 | 16) =>
  (0xf280_0000 | (shift << 17) | (value << 5) | register) >>> 0

/** Loads 32 bits. */
const load = (register: number, value: number) => [movz(register, value & 0xffff, 0), movk(register, value >>> 16, 16)]

/** arm64 code, to be run anywhere: reads SMMU_IDR0 `count` times, then powers off. */
export function loopImage(count: number): Uint8Array {
  const code = [
    ...load(0, SMMU_BASE),
    ...load(1, count),
    0xb940_0002, // loop: ldr w2, [x0]
    0xf100_0421, //       subs x1, x1, #1
    0x54ff_ffc1, //       b.ne loop
    ...load(0, PSCI_SYSTEM_OFF),
    0xd400_0002, // hvc #0
    0x1400_0000, // b .
  ]
  return new Uint8Array(Uint32Array.from(code).buffer)
}

/** ns. */
export interface TrapTimes {
  /** As the vCPU sees it. */
  readonly trip: Percentiles
  /** From frame received to reply sent. */
  readonly server: Percentiles
}

/** Runs the guest with a policy. @throws Error when it did not end by itself, or its traps are not all there. */
export async function runBareGuest(
  binary: string,
  count: number,
  policy: string,
  signal: AbortSignal,
  properties: readonly string[] = [],
  transport: Transport = DEFAULTS.transport,
): Promise<TrapTimes> {
  const scratch = new Scratch()
  try {
    const kernel = join(scratch.sockets, 'loop')
    writeFileSync(kernel, loopImage(count))
    const session = await Session.start({
      scratch,
      runFolder: newRunFolder().path,
      machine: {
        binary,
        kernel,
        append: '',
        memory: MEMORY,
        smp: 1,
        network: false,
        sandbox: true,
        extra: ['-no-reboot'],
      },
      policy: { name: policy, options: {}, panicOnWarn: false, carveout: '0', properties, transport },
    })
    const stop = () => void session.stop()
    const timer = setTimeout(stop, DEADLINE_MS)
    signal.addEventListener('abort', stop)
    if (signal.aborted) stop()
    const end = await session.ended.finally(() => {
      clearTimeout(timer)
      signal.removeEventListener('abort', stop)
    })
    signal.throwIfAborted()
    const { counters } = session
    const reads = counters?.get('reads') ?? 0
    if (counters === undefined || end.qemu.code !== 0 || reads !== count) {
      const why = end.serverError ?? (end.qemuErrors || 'it was not done in time')
      throw new Error(`the bare-metal guest ended after ${reads} of ${count} traps: ${why}`)
    }
    return { trip: counters.latency(), server: counters.server() }
  } finally {
    scratch.remove()
  }
}
