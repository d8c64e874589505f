// SPDX-License-Identifier: Apache-2.0
import { createCipheriv, createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { type DeviceName, deviceArguments, extraDevice, netOf } from './devices.ts'
import type { GuestEvent } from './guestEvents.ts'
import type { Disk } from './qemu.ts'

/** One check: bytes moved through one device, and what was expected of them. */
export interface WorkloadEntry {
  /** `virtio-blk`, `nvme`, `virtio-net`, `e1000e`, or one of those that were asked for (devices.ts). */
  readonly device: string
  /** `read`: the whole disk; `write`: a pattern, verified in the image file; `fetch`: a file over HTTP. */
  readonly operation: 'read' | 'write' | 'fetch'
  readonly bytes: number
  /** SHA-256 of what arrived; empty when nothing did. */
  readonly sha256: string
  readonly expected: string
  readonly ok: boolean
  /** Duration in the guest, ms. */
  readonly ms?: number
  readonly error?: string
  /** What went wrong before it went well. */
  readonly note?: string
  /** So often as a whole, while all other devices were at work as well; `bytes` has what came after the last of them, too. */
  readonly passes?: number
  /** It was done by the kernel that the first one started by kexec. */
  readonly successor?: true
}

/** Timed reads of one disk: 4-KiB O_DIRECT, one after the other. */
export interface BenchEntry {
  readonly device: string
  readonly reads: number
  /** In the guest, as dd measured it. */
  readonly ms: number
}

/** Something that the guest was asked to time with `cosim.parallel` or `cosim.compute` (scripts/guest/README.md). */
export interface TimedEntry {
  readonly name: string
  /** Reads, or thousands of rounds, of all that took part. */
  readonly count: number
  /** In the guest. */
  readonly ms: number
}

/** A kernel and an initramfs for kexec, on a disk of their own. */
interface Successor {
  /** Bytes of each. */
  readonly kernel: number
  readonly initramfs: number
  readonly sha256: string
}

const MIB = 1 << 20
const SUCCESSOR = 'kexec'

/** How much there is to move. */
export interface WorkloadSize {
  /** Of each disk, bytes. */
  readonly disk: number
  /** Of the file that is fetched, bytes. */
  readonly file: number
}

/** Of the file: more packets than one ring has entries before it crosses a page, which QEMU got wrong (patch 0008). */
const SIZE: WorkloadSize = { disk: 8 << 20, file: 2 << 20 }

/** The usual ones. */
const DISKS = ['virtio-blk', 'nvme']
const CARDS = ['virtio-net', 'e1000e']

/** With all devices at a time, bytes are counted in parts of a disk (as in scripts/guest/workload.sh) and of the file. */
const READ_PART = 512 << 10
const WRITE_PART = 128 << 10
const FILE_PART = 512 << 10

/** Of a disk beside the usual ones, bytes: there may be several, and reading is what takes time. */
const EXTRA_DISK = 512 << 10

/** Deterministic bytes: the keystream of AES-128-CTR with a key made from `seed`. */
function pseudoRandom(seed: string, bytes: number): Buffer {
  const key = createHash('sha256').update(seed).digest().subarray(0, 16)
  return createCipheriv('aes-128-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(bytes))
}

/** What the guest writes (scripts/guest/README.md): lines of 512 bytes, the seed and a counter. */
function pattern(seed: string, bytes: number): Buffer {
  const lines: string[] = []
  for (let i = 0; i < bytes / 512; i++) lines.push(`${`${seed} ${i}`.padEnd(511)}\n`)
  return Buffer.from(lines.join(''), 'latin1')
}

const sha256 = (data: Uint8Array | string): string => createHash('sha256').update(data).digest('hex')

/** What the guest says of a duration, ms; 0: nothing that is a number. */
const msOf = (value: unknown): number => (typeof value === 'number' && Number.isFinite(value) ? value : 0)

const partsOf = (data: Buffer, size: number): Buffer[] =>
  Array.from({ length: Math.ceil(data.length / size) }, (_, i) => data.subarray(i * size, (i + 1) * size))

/**
 * The host's side of the guest's workload: disk images and a file to fetch, and the expectations. What the guest reports
 * is checked against what the host knows, so a wrong byte anywhere shows, whoever claims otherwise.
 */
export class Workload {
  readonly virtioDisk: Disk
  readonly nvmeDisk: Disk
  /** Of what the guest writes: another one in each round. */
  #seed: string
  #round = 0
  readonly #file: Buffer
  readonly #server: Server
  /** What disks held before the guest wrote to them: of each but nvme, to its second half. */
  readonly #virtio: Buffer
  readonly #nvme: Buffer
  readonly #extra = new Map<DeviceName, Buffer>()
  readonly #expected: Record<string, string>
  readonly #size: WorkloadSize
  /** Beside the usual ones. */
  readonly #devices: readonly DeviceName[]
  readonly #folder: string
  #successor: Successor | undefined
  /** How long all devices are used at a time, s. */
  #load = 0

  private constructor(
    folder: string,
    server: Server,
    file: Buffer,
    seed: string,
    size: WorkloadSize,
    devices: readonly DeviceName[],
  ) {
    this.#seed = seed
    this.#size = size
    this.#devices = devices
    this.#folder = folder
    this.#server = server
    this.#file = file
    this.virtioDisk = { path: join(folder, 'virtio-blk.img'), serial: 'cosim-vblk' }
    this.nvmeDisk = { path: join(folder, 'nvme.img'), serial: 'cosim-nvme' }
    const virtio = pseudoRandom(`virtio-blk ${this.#seed}`, size.disk)
    // The guest counts its boots in the last block, which has to be zeros at the start.
    virtio.fill(0, size.disk - 4096)
    this.#virtio = virtio
    const nvme = pseudoRandom(`nvme ${this.#seed}`, size.disk)
    this.#nvme = nvme
    writeFileSync(this.virtioDisk.path, virtio)
    writeFileSync(this.nvmeDisk.path, nvme)
    this.#expected = { 'virtio-blk': sha256(virtio), nvme: sha256(nvme) }
    for (const name of this.#extraDisks) {
      const bytes = pseudoRandom(`${name} ${this.#seed}`, EXTRA_DISK)
      writeFileSync(this.#image(name), bytes)
      this.#extra.set(name, bytes)
      this.#expected[name] = sha256(bytes)
    }
  }

  /** QEMU's words for the devices beside the usual ones. */
  get deviceArguments(): string[] {
    const devices = deviceArguments(this.#devices, name => this.#image(name))
    if (this.#successor === undefined) return devices
    const path = this.#image(SUCCESSOR).replaceAll(',', ',,')
    const disk = `virtio-blk-pci,id=${SUCCESSOR},drive=${SUCCESSOR}-drive,serial=cosim-${SUCCESSOR}`
    return [
      ...devices,
      ...['-drive', `if=none,id=${SUCCESSOR}-drive,format=raw,readonly=on,file=${path}`],
      ...['-device', `${disk},iommu_platform=on,disable-legacy=on`],
    ]
  }

  /** Gives the guest a kernel, an Image, and an initramfs to start after the workload (scripts/guest/README.md). */
  addSuccessor(kernel: Uint8Array, initramfs: Uint8Array): void {
    const start = Math.ceil(kernel.length / MIB) * MIB
    const disk = Buffer.alloc(start + Math.ceil(initramfs.length / MIB) * MIB)
    disk.set(kernel)
    disk.set(initramfs, start)
    writeFileSync(this.#image(SUCCESSOR), disk)
    const both = createHash('sha256').update(kernel).update(initramfs).digest('hex')
    this.#successor = { kernel: kernel.length, initramfs: initramfs.length, sha256: both }
  }

  /** Has the guest use all devices at a time after the rest, for so many seconds. */
  addLoad(seconds: number): void {
    this.#load = seconds
  }

  get #extraDisks(): DeviceName[] {
    return this.#devices.filter(name => extraDevice(name).kind === 'disk')
  }

  #image(name: string): string {
    return join(this.#folder, `${name}.img`)
  }

  /**
   * Makes the images in `folder` and serves the file on the host's loopback.
   * @param seed of all bytes, letters and digits; default: another one each time.
   * @param devices beside the usual ones
   */
  static async create(
    folder: string,
    seed = randomBytes(8).toString('hex'),
    size = SIZE,
    devices: readonly DeviceName[] = [],
  ): Promise<Workload> {
    const file = pseudoRandom(`file ${seed}`, size.file)
    const server = createServer((request, response) => {
      request.resume()
      const [, part] = /^\/file(?:\/(\d{1,6}))?$/.exec(request.url ?? '') ?? ['', 'none']
      const bytes = part === undefined ? file : partsOf(file, FILE_PART)[Number(part)]
      response.writeHead(bytes === undefined ? 404 : 200, { 'content-length': bytes?.length ?? 0 }).end(bytes)
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    return new Workload(folder, server, file, seed, size, devices)
  }

  /** Another round on the same disks: what is to be read is what this one wrote, and what is to be written differs from it. */
  again(): void {
    const half = this.#size.disk / 2
    const disk = Buffer.concat([this.#virtio.subarray(0, half), pattern(this.#seed, half)])
    this.#expected['virtio-blk'] = sha256(disk)
    for (const name of this.#extraDisks) {
      const first = readFileSync(this.#image(name)).subarray(0, EXTRA_DISK / 2)
      this.#expected[name] = sha256(Buffer.concat([first, pattern(`${this.#seed}-${name}`, EXTRA_DISK / 2)]))
    }
    this.#round++
    this.#seed = `${this.#seed.split('-')[0]}-${this.#round}`
  }

  /** Words of the kernel command line that tell the guest what to do. @param bench timed reads of each disk; 0: none. */
  append(bench: number): string {
    const { port } = this.#server.address() as AddressInfo
    const words = [
      `cosim.seed=${this.#seed}`,
      `cosim.url.virtio-net=http://10.0.2.2:${port}/file`,
      `cosim.url.e1000e=http://10.0.3.2:${port}/file`,
    ]
    if (this.#devices.length > 0) words.push(`cosim.devices=${[...DISKS, ...CARDS, ...this.#devices].join(',')}`)
    for (const name of this.#devices) {
      if (extraDevice(name).kind === 'net') words.push(`cosim.url.${name}=http://${netOf(name)}.2:${port}/file`)
    }
    const { kernel, initramfs } = this.#successor ?? {}
    if (kernel !== undefined) words.push(`cosim.kexec=${kernel}:${initramfs}`)
    if (this.#load > 0) words.push(`cosim.parts=${Math.ceil(this.#size.file / FILE_PART)}`, `cosim.load=${this.#load}`)
    if (bench > 0) words.push(`cosim.bench=${bench}`)
    return words.join(' ')
  }

  /** The checks, after the machine has ended. Devices that reported nothing have failed. */
  check(events: readonly GuestEvent[]): WorkloadEntry[] {
    const file = sha256(this.#file)
    const cards = [
      ...CARDS,
      ...this.#devices.flatMap(name => {
        const { kind, functions = [] } = extraDevice(name)
        return kind === 'net' ? [name, ...functions] : []
      }),
    ]
    return [
      ...[...DISKS, ...this.#extraDisks].map(name =>
        this.#entry(name, 'read', 'device', this.#expected[name] ?? '', events),
      ),
      this.#written('virtio-blk', this.#size.disk, this.#seed, events),
      ...this.#extraDisks.map(name => this.#written(name, EXTRA_DISK, `${this.#seed}-${name}`, events)),
      ...cards.map(name => this.#entry(name, 'fetch', 'net', file, events)),
      ...(this.#load > 0 ? this.#loaded(events) : []),
    ]
  }

  /** Of all devices at a time. What is read is what nobody writes to, and what was written last stands on the disk at the end. */
  #loaded(events: readonly GuestEvent[]): WorkloadEntry[] {
    const half = (bytes: Buffer) => bytes.subarray(0, bytes.length / 2)
    const { disk } = this.#size
    const cards = [...CARDS, ...this.#devices.filter(name => extraDevice(name).kind === 'net')]
    return [
      this.#passes('nvme', 'read', this.#nvme, READ_PART, events),
      this.#passes('virtio-blk', 'read', half(this.#virtio), READ_PART, events),
      this.#passes('virtio-blk', 'write', pattern(this.#seed, disk / 2), WRITE_PART, events),
      ...[...this.#extra].flatMap(([name, bytes]) => [
        this.#passes(name, 'read', half(bytes), READ_PART, events),
        this.#passes(name, 'write', pattern(`${this.#seed}-${name}`, EXTRA_DISK / 2), WRITE_PART, events),
      ]),
      ...cards.map(name => this.#passes(name, 'fetch', this.#file, FILE_PART, events)),
    ]
  }

  /**
   * A pass is known by the checksum of the checksums of its parts, a line each; one that the end of the time cut short by those that it got to.
   * @param data of one pass @param size of a part, bytes
   */
  #passes(
    device: string,
    operation: 'read' | 'write' | 'fetch',
    data: Buffer,
    size: number,
    events: readonly GuestEvent[],
  ): WorkloadEntry {
    const sums = partsOf(data, size).map(part => `${sha256(part)}\n`)
    const whole = sha256(sums.join(''))
    const event = events.find(e => e.event === 'load' && e.name === device && e.operation === operation)
    if (event === undefined) {
      const error = 'the guest reported nothing of all devices at a time'
      return { device, operation, bytes: 0, sha256: '', expected: whole, ok: false, passes: 0, error }
    }
    const counted = (value: unknown, most: number): number =>
      Number.isInteger(value) ? Math.max(0, Math.min(Number(value), most)) : 0
    const passes = counted(event.passes, 1e6)
    const parts = counted(event.parts, sums.length - 1)
    const cut = sha256(sums.slice(0, parts).join(''))
    const same = (passes === 0 || event.sha256 === whole) && (parts === 0 || event.partsSha256 === cut)
    const differs = same ? undefined : 'the bytes differ from what the host has'
    const wrong = event.error ?? (passes + parts > 0 ? differs : 'nothing in that time')
    // Each part is written with other bytes, and with its own.
    const times = operation === 'write' ? 2 : 1
    const [told, expected] = passes > 0 ? [event.sha256, whole] : [event.partsSha256, cut]
    return {
      ...{
        device,
        operation,
        bytes: times * (passes * data.length + parts * size),
        sha256: typeof told === 'string' ? told.slice(0, 64) : '',
        expected,
      },
      ...{ ok: wrong === undefined, ms: msOf(event.ms), passes, ...(wrong && { error: wrong }) },
    }
  }

  /** Whether the guest has read its successor as it is. */
  checkSuccessor(events: readonly GuestEvent[]): WorkloadEntry {
    return this.#entry(SUCCESSOR, 'read', 'successor', this.#successor?.sha256 ?? '', events)
  }

  /** Timed reads, when there were any. */
  bench(events: readonly GuestEvent[]): BenchEntry[] {
    return events
      .filter(({ event, ok }) => event === 'bench' && ok)
      .map(({ name = '', reads, ms }) => ({ device: name, reads: Number(reads), ms: Number(ms) }))
  }

  /** What the guest timed besides. */
  timed(events: readonly GuestEvent[]): TimedEntry[] {
    return events
      .filter(({ event, ok }) => event === 'timed' && ok)
      .map(({ name = '', count, ms }) => ({ name, count: Number(count), ms: Number(ms) }))
  }

  close(): void {
    this.#server.close()
    this.#server.closeAllConnections()
  }

  #entry(
    device: string,
    operation: 'read' | 'fetch',
    name: string,
    expected: string,
    events: readonly GuestEvent[],
  ): WorkloadEntry {
    // The successor is named by how it is started.
    const event = events.find(e => e.event === name && (e.name === device || device === SUCCESSOR))
    if (event === undefined) {
      return { device, operation, bytes: 0, sha256: '', expected, ok: false, error: 'the guest reported nothing' }
    }
    const { bytes = 0, sha256 = '', error, note } = event
    const ms = msOf(event.readMs ?? event.fetchMs)
    const wrong = error ?? (sha256 === expected ? undefined : 'the bytes differ from what the host has')
    const said = { ...(wrong && { error: wrong }), ...(note && { note }) }
    return { device, operation, bytes, sha256, expected, ok: wrong === undefined, ms, ...said }
  }

  /** What counts is what stands in the image file, not what the guest believes. */
  #written(device: string, size: number, seed: string, events: readonly GuestEvent[]): WorkloadEntry {
    const event = events.find(e => e.event === 'write' && e.name === device)
    const offset = size / 2
    const expected = sha256(pattern(seed, size - offset))
    const base = { device, operation: 'write', expected } as const
    if (event === undefined) return { ...base, bytes: 0, sha256: '', ok: false, error: 'the guest reported nothing' }
    const written = sha256(readFileSync(this.#image(device)).subarray(offset))
    const wrong = event.error ?? (written === expected ? undefined : 'the image file does not hold what was written')
    const ms = msOf(event.writeMs)
    return {
      ...base,
      bytes: event.bytes ?? 0,
      sha256: written,
      ok: wrong === undefined,
      ms,
      ...(wrong && { error: wrong }),
    }
  }
}
