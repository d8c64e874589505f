// SPDX-License-Identifier: Apache-2.0
/** The real QEMU with a guest at EL2 that does what it is told (scripts/guest/bare), and the policy pkvm following it. */
import { readSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { ensureBareGuest } from '../../scripts/setup/bareGuest.ts'
import { ensureQemu } from '../../scripts/setup/index.ts'
import { Session } from '../../server/control/session.ts'
import { ownFolder, Scratch } from '../../server/machine/scratch.ts'
import { pageAddresses } from '../../server/policy/policy.ts'
import type { Sink } from '../../server/trace/pump.ts'
import type { El2Report } from '../../server/trap/el2Oracle.ts'
import { transport } from '../transport.ts'

export const RAM = 0x4000_0000
const MEMORY = '128M'
const CARVEOUT = '32M'
const MAILBOX = 0x4020_0000
const ANSWER_MS = 60_000

/** Commands of the guest. */
const STORE = 1
const LEAVE = 2
const VTTBR = 3
const VTCR = 4
const HCR = 5
const TLBI = 6
const CPU_ON = 7

/** Instructions that invalidate stage 2, in the order in which the guest knows them. */
export const TLBI_FORMS = [
  ...['VMALLS12E1IS', 'IPAS2E1IS', 'IPAS2LE1IS', 'VMALLS12E1', 'IPAS2E1', 'IPAS2LE1', 'ALLE1IS', 'ALLE1'],
  ...['RIPAS2E1IS', 'RIPAS2LE1IS', 'RIPAS2E1', 'RIPAS2LE1', 'VMALLS12E1OS', 'IPAS2E1OS', 'IPAS2LE1OS', 'ALLE1OS'],
  ...['RIPAS2E1OS', 'RIPAS2LE1OS'],
]

/** What a load at EL1 answers that stage 2 refuses. */
export const FAULTED = 0xfa017n

/** What QEMU told of EL2's tables. */
export interface Told {
  readonly cpu: number
  /** All of them are new. */
  readonly all: boolean
  readonly pages: readonly number[]
}

export class El2Guest {
  readonly session: Session
  readonly #scratch: Scratch
  readonly #folder: ReturnType<typeof ownFolder>
  readonly #ram: number
  readonly #numbers: bigint[] = []
  #told: Told[] = []

  private constructor(session: Session, scratch: Scratch, folder: ReturnType<typeof ownFolder>) {
    this.session = session
    this.#scratch = scratch
    this.#folder = folder
    this.#ram = session.ram
    const sink: Sink = {
      ready: true,
      fromRing: (reader, layout, at) => {
        if (layout.name !== 'stage2') return
        const record = reader.decode(layout, at)
        if (record.kind !== 'stage2') return
        this.#told.push({ cpu: record.cpu, all: record.all === 1, pages: pageAddresses(record.bytes) })
      },
      record() {},
      flush() {},
    }
    session.pump?.add(sink)
  }

  /** @param reconnectMs how long it waits for a lost server, 0: it ends */
  static async start(smp = 1, reconnectMs = 0, options: Readonly<Record<string, unknown>> = {}): Promise<El2Guest> {
    const scratch = new Scratch()
    const folder = ownFolder(tmpdir(), 'el2-')
    try {
      const session = await Session.start({
        scratch,
        runFolder: folder.path,
        machine: {
          binary: await ensureQemu(),
          kernel: await ensureBareGuest(),
          sandbox: true,
          append: '',
          memory: MEMORY,
          smp,
          network: false,
          extra: ['-machine', 'virtualization=on', '-cpu', 'max,sve=off,sme=off'],
        },
        policy: {
          name: 'pkvm',
          options,
          panicOnWarn: true,
          carveout: CARVEOUT,
          transport: transport(),
          reconnectMs,
        },
      })
      return new El2Guest(session, scratch, folder)
    } catch (error) {
      scratch.remove()
      folder.remove()
      throw error
    }
  }

  /** For files of the test. */
  get folder(): string {
    return this.#folder.path
  }

  async dispose(): Promise<void> {
    await this.session.stop()
    this.#scratch.remove()
    this.#folder.remove()
  }

  /** As if it had always stood there: no vCPU has stored it. */
  poke(address: number, ...values: readonly bigint[]): void {
    const bytes = new Uint8Array(BigUint64Array.from(values).buffer)
    writeSync(this.#ram, bytes, 0, bytes.length, address - RAM)
  }

  peek(address: number): bigint {
    const word = new BigUint64Array(1)
    readSync(this.#ram, new Uint8Array(word.buffer), 0, 8, address - RAM)
    return word[0] ?? 0n
  }

  /** @throws Error when the guest does not answer in time */
  async #command(cpu: number, command: number, a = 0n, b = 0n): Promise<bigint> {
    const mailbox = MAILBOX + cpu * 4096
    const number = (this.#numbers[cpu] ?? 0n) + 1n
    this.#numbers[cpu] = number
    this.poke(mailbox + 8, BigInt(command), a, b)
    this.poke(mailbox, number)
    const end = performance.now() + ANSWER_MS
    while (this.peek(mailbox + 32) !== number) {
      if (performance.now() > end || !this.session.qemu.running) {
        throw new Error(`vCPU ${cpu} does not answer command ${command}: ${this.session.qemu.errors}`)
      }
      await sleep(1)
    }
    return this.peek(mailbox + 40)
  }

  async store(address: number, value: bigint, cpu = 0): Promise<void> {
    await this.#command(cpu, STORE, BigInt(address), value)
  }

  /** EL1 runs, loads from an address unless it is 0, and comes back. @returns what it loaded, or FAULTED */
  leave(address = 0, cpu = 0): Promise<bigint> {
    return this.#command(cpu, LEAVE, BigInt(address))
  }

  async vttbr(value: bigint, cpu = 0): Promise<void> {
    await this.#command(cpu, VTTBR, value)
  }

  async vtcr(value: bigint, cpu = 0): Promise<void> {
    await this.#command(cpu, VTCR, value)
  }

  async hcr(value: bigint, cpu = 0): Promise<void> {
    await this.#command(cpu, HCR, value)
  }

  /** @param page of 4 KiB that the host's translations are forgotten of; absent: all */
  async tlbi(page?: number, cpu = 0): Promise<void> {
    await this.invalidate(page === undefined ? 'VMALLS12E1IS' : 'IPAS2E1IS', page, cpu)
  }

  /**
   * @param form of `TLBI_FORMS`
   * @param page of 4 KiB, where the instruction has an address
   */
  async invalidate(form: string, page = 0, cpu = 0): Promise<void> {
    const number = TLBI_FORMS.indexOf(form)
    if (number < 0) throw new Error(`the guest knows no TLBI ${form}`)
    // A range of two pages, TG = 4 KiB (DDI 0487 C5.5).
    const range = form.startsWith('R') ? 1n << 46n : 0n
    await this.#command(cpu, TLBI, BigInt(page / 4096) | range, BigInt(number))
  }

  async cpuOn(cpu: number): Promise<void> {
    const result = await this.#command(0, CPU_ON, BigInt(cpu))
    if (result !== 0n) throw new Error(`PSCI CPU_ON of vCPU ${cpu}: ${result}`)
  }

  /** What QEMU told since the last time. */
  told(): readonly Told[] {
    this.session.pump?.drain()
    return this.#told.splice(0)
  }

  /** Whose pages are, as the server has it: `host` for what is plainly the host's. */
  async owner(page: number): Promise<string> {
    const [run] = (await this.session.thread?.call('ownership', page, page + 4096, 10)) ?? []
    if (run === undefined) return 'not RAM'
    return run.state === 'owned' ? 'host' : run.vm > 0 ? `${run.state} ${run.vm}` : run.state
  }

  /** EL2's tables held against the SMMU's. */
  async el2(): Promise<El2Report> {
    const report = await this.session.thread?.call('el2')
    if (!report) throw new Error('the machine has no EL2')
    return report
  }
}
