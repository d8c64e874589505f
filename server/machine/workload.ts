// SPDX-License-Identifier: Apache-2.0
import { createCipheriv, createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import type { GuestEvent } from './guestEvents.ts'
import type { Disk } from './qemu.ts'

/** One check: bytes moved through one device, and what was expected of them. */
export interface WorkloadEntry {
  /** `virtio-blk`, `nvme`, `virtio-net`, `e1000e`. */
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

/** How much there is to move. */
export interface WorkloadSize {
  /** Of each disk, bytes. */
  readonly disk: number
  /** Of the file that is fetched, bytes. */
  readonly file: number
}

/** Of the file: more packets than one ring has entries before it crosses a page, which QEMU got wrong (patch 0008). */
const SIZE: WorkloadSize = { disk: 8 << 20, file: 2 << 20 }

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

const sha256 = (data: Uint8Array): string => createHash('sha256').update(data).digest('hex')

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
  /** What the virtio disk held before the guest wrote to it. */
  readonly #virtio: Buffer
  readonly #expected: Record<string, string>

  readonly #size: WorkloadSize

  private constructor(folder: string, server: Server, file: Buffer, seed: string, size: WorkloadSize) {
    this.#seed = seed
    this.#size = size
    this.#server = server
    this.#file = file
    this.virtioDisk = { path: join(folder, 'virtio-blk.img'), serial: 'cosim-vblk' }
    this.nvmeDisk = { path: join(folder, 'nvme.img'), serial: 'cosim-nvme' }
    const virtio = pseudoRandom(`virtio-blk ${this.#seed}`, size.disk)
    // The guest counts its boots in the last block, which has to be zeros at the start.
    virtio.fill(0, size.disk - 4096)
    this.#virtio = virtio
    const nvme = pseudoRandom(`nvme ${this.#seed}`, size.disk)
    writeFileSync(this.virtioDisk.path, virtio)
    writeFileSync(this.nvmeDisk.path, nvme)
    this.#expected = { 'virtio-blk': sha256(virtio), nvme: sha256(nvme) }
  }

  /**
   * Makes the images in `folder` and serves the file on the host's loopback.
   * @param seed of all bytes, letters and digits; default: another one each time.
   */
  static async create(folder: string, seed = randomBytes(8).toString('hex'), size = SIZE): Promise<Workload> {
    const file = pseudoRandom(`file ${seed}`, size.file)
    const server = createServer((request, response) => {
      request.resume()
      response.writeHead(request.url === '/file' ? 200 : 404, { 'content-length': size.file }).end(file)
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    return new Workload(folder, server, file, seed, size)
  }

  /** Another round on the same disks: what is to be read is what this one wrote, and what is to be written differs from it. */
  again(): void {
    const half = this.#size.disk / 2
    const disk = Buffer.concat([this.#virtio.subarray(0, half), pattern(this.#seed, half)])
    this.#expected['virtio-blk'] = sha256(disk)
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
    if (bench > 0) words.push(`cosim.bench=${bench}`)
    return words.join(' ')
  }

  /** The checks, after the machine has ended. Devices that reported nothing have failed. */
  check(events: readonly GuestEvent[]): WorkloadEntry[] {
    const file = sha256(this.#file)
    return [
      this.#entry('virtio-blk', 'read', 'device', this.#expected['virtio-blk'] ?? '', events),
      this.#entry('nvme', 'read', 'device', this.#expected.nvme ?? '', events),
      this.#written(events),
      this.#entry('virtio-net', 'fetch', 'net', file, events),
      this.#entry('e1000e', 'fetch', 'net', file, events),
    ]
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
    const event = events.find(e => e.event === name && e.name === device)
    if (event === undefined) {
      return { device, operation, bytes: 0, sha256: '', expected, ok: false, error: 'the guest reported nothing' }
    }
    const { bytes = 0, sha256 = '', error, note } = event
    const ms = Number(event.readMs ?? event.fetchMs ?? 0)
    const wrong = error ?? (sha256 === expected ? undefined : 'the bytes differ from what the host has')
    const said = { ...(wrong && { error: wrong }), ...(note && { note }) }
    return { device, operation, bytes, sha256, expected, ok: wrong === undefined, ms, ...said }
  }

  /** What counts is what stands in the image file, not what the guest believes. */
  #written(events: readonly GuestEvent[]): WorkloadEntry {
    const event = events.find(e => e.event === 'write')
    const { disk } = this.#size
    const offset = disk / 2
    const expected = sha256(pattern(this.#seed, disk - offset))
    const base = { device: 'virtio-blk', operation: 'write', expected } as const
    if (event === undefined) return { ...base, bytes: 0, sha256: '', ok: false, error: 'the guest reported nothing' }
    const written = sha256(readFileSync(this.virtioDisk.path).subarray(offset))
    const wrong = event.error ?? (written === expected ? undefined : 'the image file does not hold what was written')
    const ms = Number(event.writeMs ?? 0)
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
