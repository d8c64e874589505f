// SPDX-License-Identifier: Apache-2.0
/** Keeps the names of devices right while the guest numbers buses, and devices come and go. */
import { isDeepStrictEqual } from 'node:util'
import type { Hello } from '../../protocol/generated/messages.ts'
import type { Qmp } from '../machine/qmp.ts'
import { askForDevices, type NamedDevice } from '../machine/streams.ts'
import { type Layout, u32At } from '../trace/layout.ts'
import type { Sink } from '../trace/pump.ts'
import type { TraceRecord } from '../trace/records.ts'
import type { RingReader } from '../trace/ring.ts'

/** QEMU is asked at most so often, ms: it answers between what its vCPUs ask of it. */
const INTERVAL_MS = 50
/** Config of an entry that is not valid, in records of streams. */
const INVALID = 0xffff_ffff

/** Streams that are remembered: as many as there are PCI functions. */
const MAX_STREAMS = 0x1_0000

const key = (smmu: number, sid: number): string => `${smmu}:${sid}`

/**
 * Asks QEMU when the guest configures a stream that has no name, when its workload reports, and when a device comes or goes. In a
 * recording the control record `devices` says what came of it.
 */
export class DeviceNames implements Sink {
  readonly ready = true
  readonly #qmp: () => Promise<Qmp>
  readonly #take: (devices: readonly NamedDevice[]) => void
  /** As QEMU described them when it connected. */
  #described: readonly NamedDevice[] = []
  #devices: readonly NamedDevice[] = []
  /** Streams that the guest has configured. */
  readonly #used = new Set<string>()
  #timer: NodeJS.Timeout | undefined
  #asking = false
  #again = false
  #closed = false

  /** @param take told of all devices whenever that changes anything */
  constructor(qmp: () => Promise<Qmp>, take: (devices: readonly NamedDevice[]) => void) {
    this.#qmp = qmp
    this.#take = take
  }

  /** QEMU connected. */
  connected({ devices }: Pick<Hello, 'devices'>, resumed: boolean): void {
    this.#described = devices
    this.#devices = devices
    // Who goes on with a running machine has to know what was found out before.
    if (resumed) this.look()
  }

  /** The machine was reset: no virtual function is left, and what the buses are called is the guest's to say anew. */
  reset(): void {
    this.#used.clear()
  }

  fromRing({ words }: Pick<RingReader, 'words'>, { name }: Layout, at: number): void {
    if (name !== 'stream') return
    const { smmu, sid, hostConfig } = u32At.stream
    if (words[at + hostConfig] === INVALID) return
    this.#configured(words[at + smmu] ?? 0, words[at + sid] ?? 0)
  }

  record(record: TraceRecord): void {
    if (record.kind === 'console' && record.text.includes('@cosim ')) this.look()
  }

  flush(): void {}

  #configured(smmu: number, sid: number): void {
    const stream = key(smmu, sid)
    // A guest may configure streams that no device has, each once.
    if (this.#used.has(stream) || this.#used.size >= MAX_STREAMS) return
    this.#used.add(stream)
    if (!this.#devices.some(device => device.smmu === smmu && device.sid === sid)) this.look()
  }

  /** Asks soon. */
  look(): void {
    if (this.#closed || this.#timer !== undefined) return
    this.#timer = setTimeout(() => {
      this.#timer = undefined
      void this.#ask()
    }, INTERVAL_MS)
    this.#timer.unref()
  }

  /** The machine has ended. */
  close(): void {
    this.#closed = true
    clearTimeout(this.#timer)
  }

  async #ask(): Promise<void> {
    if (this.#asking) {
      this.#again = true
      return
    }
    this.#asking = true
    try {
      const used = (smmu: number, sid: number) => this.#used.has(key(smmu, sid))
      const devices = await askForDevices(await this.#qmp(), this.#described, used)
      if (this.#closed || isDeepStrictEqual(devices, this.#devices)) return
      this.#devices = devices
      this.#take(devices)
    } catch {
      // QEMU has ended, or the connection: the names stay as they were.
    } finally {
      this.#asking = false
      if (this.#again) this.look()
      this.#again = false
    }
  }
}
