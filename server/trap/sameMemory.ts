// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto'
import type { Hello } from '../../protocol/generated/messages.ts'
import type { GuestMemory } from '../smmu/memory.ts'

/** Bytes that are compared: they are in one page. */
const MARK = 16
const SEEN = 4096

type Range = Hello['ram'][number]

/** In a machine that runs, so many pages of each range of RAM are compared that hold something, of so many all over it. */
const COMPARED = 8
const PLACES = 1024

/**
 * Whether the file that QEMU says is behind guest RAM is what its vCPUs and devices use. QEMU only says so: what it inherited, or
 * what stands for it, may have put another file there, and then tables would be written where nobody reads them.
 *
 * A machine that has not run gets a mark of random bytes through the file, looked for through QEMU and taken away again. In one that
 * runs nothing can be written without somebody seeing it: what is there is compared, and bytes that do not change meanwhile. Zeros
 * are in every new file, so pages are looked for that hold something; a machine that ran has some, if only what booted it.
 * @param wire the same memory through QEMU
 */
export function isSameMemory(file: GuestMemory, wire: GuestMemory, hello: Hello): boolean {
  const { ram, resumed } = hello
  if (resumed !== 1) return ram.every(range => isMarked(file, wire, quietPlace(hello, range)))
  let something = false
  for (const range of ram) {
    // Also where the file has nothing: QEMU may have something there.
    const places = [quietPlace(hello, range)]
    for (const place of placesIn(range)) {
      if (places.length > COMPARED) break
      if (holdsSomething(file, place)) places.push(place)
    }
    for (const place of places) {
      let same = looksTheSame(file, wire, place)
      // A byte may go there and back while it is looked at, as a lock does; another file stays another one.
      for (let again = 0; same === undefined && again < 3; again++) same = looksTheSame(file, wire, place)
      if (same === undefined) return false
      something ||= same === 'something'
    }
  }
  return something
}

/** Nobody but a hypervisor is at home there; where there is no such place, at the end, where nobody is yet. */
function quietPlace({ carveoutBase, carveoutSize }: Hello, { base, size }: Range): number {
  return carveoutSize >= SEEN && carveoutBase >= base && carveoutBase < base + size
    ? carveoutBase
    : base + Math.max(0, size - SEEN)
}

/** Pages all over a range, its first one among them. */
function* placesIn({ base, size }: Range): Generator<number> {
  const pages = Math.floor(size / SEEN)
  const step = Math.max(1, Math.floor(pages / PLACES))
  for (let page = 0; page < pages; page += step) yield base + page * SEEN
}

function isMarked(file: GuestMemory, wire: GuestMemory, place: number): boolean {
  const before = Buffer.alloc(MARK)
  const mark = randomBytes(MARK)
  const seen = Buffer.alloc(MARK)
  if (!file.read(place, before, 0, MARK)) return false
  file.write(place, mark, 0, MARK)
  const ok = wire.read(place, seen, 0, MARK)
  file.write(place, before, 0, MARK)
  return ok && seen.equals(mark)
}

const ZEROS = Buffer.alloc(SEEN)

function holdsSomething(file: GuestMemory, place: number): boolean {
  const bytes = Buffer.alloc(SEEN)
  return file.read(place, bytes, 0, SEEN) && !bytes.equals(ZEROS)
}

/** Undefined: it does not; else whether there is anything but zeros. */
function looksTheSame(file: GuestMemory, wire: GuestMemory, place: number): 'something' | 'zeros' | undefined {
  const [before, seen, after] = [Buffer.alloc(SEEN), Buffer.alloc(SEEN), Buffer.alloc(SEEN)]
  if (!file.read(place, before, 0, SEEN)) return undefined
  if (!wire.read(place, seen, 0, SEEN)) return undefined
  file.read(place, after, 0, SEEN)
  if (!seen.every((byte, i) => byte === before[i] || byte === after[i] || before[i] !== after[i])) return undefined
  return seen.equals(ZEROS) ? 'zeros' : 'something'
}
