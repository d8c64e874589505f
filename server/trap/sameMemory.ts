// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto'
import type { Hello } from '../../protocol/generated/messages.ts'
import type { GuestMemory } from '../smmu/memory.ts'

/** Bytes that are compared: they are in one page. */
const MARK = 16
const SEEN = 4096

/**
 * Whether the file that QEMU says is behind guest RAM is what its vCPUs and devices use. QEMU only says so: what it inherited, or
 * what stands for it, may have put another file there, and then tables would be written where nobody reads them.
 *
 * A machine that has not run gets a mark of random bytes through the file, looked for through QEMU and taken away again. In one that
 * runs nothing can be written without somebody seeing it: what is there is compared, and bytes that do not change meanwhile.
 * @param wire the same memory through QEMU
 */
export function isSameMemory(file: GuestMemory, wire: GuestMemory, hello: Hello): boolean {
  const { carveoutBase, carveoutSize, ram, resumed } = hello
  // Nobody but a hypervisor is at home there; where there is no such place, at the end, where nobody is yet.
  const places = ram.map(({ base, size }) =>
    carveoutSize >= SEEN && carveoutBase >= base && carveoutBase < base + size
      ? carveoutBase
      : base + Math.max(0, size - SEEN),
  )
  return places.every(place => (resumed === 1 ? looksTheSame(file, wire, place) : isMarked(file, wire, place)))
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

function looksTheSame(file: GuestMemory, wire: GuestMemory, place: number): boolean {
  const [before, seen, after] = [Buffer.alloc(SEEN), Buffer.alloc(SEEN), Buffer.alloc(SEEN)]
  if (!file.read(place, before, 0, SEEN)) return false
  if (!wire.read(place, seen, 0, SEEN)) return false
  file.read(place, after, 0, SEEN)
  return seen.every((byte, i) => byte === before[i] || byte === after[i] || before[i] !== after[i])
}
