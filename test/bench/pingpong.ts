// SPDX-License-Identifier: Apache-2.0
/** The C program that everything about traps is compared with. */
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { FrameWriter } from '../../protocol/framing.ts'
import { encodeReply, encodeTrapRead } from '../../protocol/generated/messages.ts'
import type { Peer } from './figure.ts'

const run = promisify(execFile)
const SOURCE = fileURLToPath(new URL('./pingpong.c', import.meta.url))
const DEADLINE_MS = 60_000

/** Percentiles, µs. */
export interface Times {
  readonly p50: number
  readonly p90: number
  readonly p99: number
  readonly max: number
}

/** Writes frames like those of a trap. */
export function encodeTypicalTrap(out: FrameWriter, seq: number): void {
  encodeTrapRead(out, seq, 0, 0, 0, 4, 1_500_000_000, 0, 0x4008_0008, 20_000)
}

function frameSizes(): { readonly request: number; readonly reply: number } {
  const out = new FrameWriter()
  encodeTypicalTrap(out, 100_000)
  const request = out.length
  out.reset()
  encodeReply(out, 100_000, 0, 0, 0x0d44_101b)
  return { request, reply: out.length }
}

const times = (line = ''): Times => {
  const [p50, p90, p99, max] = line.split(' ').map(ns => Number(ns) / 1000)
  return { p50, p90, p99, max }
}

/** Runs a peer. @returns its round trip */
export async function peerRoundTrip({ program }: Peer, count: number, signal: AbortSignal): Promise<Times> {
  const { stdout } = await run(program, [`${count}`], { signal, timeout: DEADLINE_MS })
  const trip = times(stdout.split('\n')[0])
  if (!(trip.p50 > 0)) throw new Error(`${program}: its first line should be four numbers, ns`)
  return trip
}

export class PingPong {
  readonly #program: string
  readonly #count: number
  readonly #signal: AbortSignal

  private constructor(program: string, count: number, signal: AbortSignal) {
    this.#program = program
    this.#count = count
    this.#signal = signal
  }

  /**
   * Compiles it into `folder`; SMMU_COSIM_PINGPONG names one that is compiled already, where there is no compiler (docker/Dockerfile).
   * @throws Error with what the compiler said.
   */
  static async build(folder: string, count: number, signal: AbortSignal): Promise<PingPong> {
    const { SMMU_COSIM_PINGPONG: made } = process.env
    if (made !== undefined && made !== '') return new PingPong(made, count, signal)
    const program = join(folder, 'pingpong')
    await run('cc', ['-O2', '-Wall', '-o', program, SOURCE], { signal, timeout: DEADLINE_MS })
    return new PingPong(program, count, signal)
  }

  /**
   * @param spin: how long both sides poll before they sleep, µs.
   * @param apart: on two processors, as QEMU and the server are; false: where the scheduler puts them.
   * @returns its round trip
   */
  async exchange(spin: number, apart: boolean): Promise<Times> {
    const { request, reply } = frameSizes()
    const args = [this.#count, request, reply, spin, apart ? 1 : 0].map(String)
    const { stdout } = await run(this.#program, args, { signal: this.#signal, timeout: DEADLINE_MS })
    return times(stdout)
  }
}
