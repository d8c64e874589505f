// SPDX-License-Identifier: Apache-2.0
/**
 * What a policy says that shares memory and streams out once and for all: each stream reaches the ranges of its own partition and nothing
 * else. It says so at reset, before there is a guest, and is held to it; nobody asks it again.
 */
import type { StaticPartition } from '../policy/inspect.ts'

export class Partitions {
  readonly #partitions: readonly StaticPartition[]
  /** Numbers of partitions by SMMU and StreamID. */
  readonly #owners: ReadonlyMap<string, number>

  /** @param partitions the first one is the guest's: what an SMMU writes itself goes there */
  constructor(partitions: readonly StaticPartition[]) {
    this.#partitions = partitions
    this.#owners = new Map(
      partitions.flatMap(({ streams }, i) => streams.map(({ smmu, sid }) => [`${smmu} ${sid}`, i] as const)),
    )
  }

  /** Number of the partition of a stream; undefined: it has none, and reaches nothing. */
  of(smmu: number, sid: number): number | undefined {
    return this.#owners.get(`${smmu} ${sid}`)
  }

  name(partition: number | undefined): string {
    return partition === undefined ? 'nobody' : (this.#partitions[partition]?.name ?? 'nobody')
  }

  /** First address of a range that is not of a partition; -1: all of it is. */
  outside(partition: number | undefined, from: number, size: number): number {
    const ranges = partition === undefined ? [] : (this.#partitions[partition]?.ranges ?? [])
    const end = from + size
    let at = from
    while (at < end) {
      const range = ranges.find(({ base, size }) => at >= base && at < base + size)
      if (range === undefined) return at
      at = range.base + range.size
    }
    return -1
  }
}
