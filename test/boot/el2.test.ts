// SPDX-License-Identifier: Apache-2.0
/** Linux as pKVM at EL2, a protected VM, and its host's attacks on it by CPU and by DMA. */
import { describe, expect, test } from 'vitest'
import type { Answer } from '../../server/api/schemas/contract.ts'
import type { Attack } from '../../server/run/attackTable.ts'
import { cosim } from './cli.ts'

const DEADLINE = { deadlineMs: 290_000 }
const SMMU = 'SMMU: F_TRANSLATION at stage 2'

const lines = (attacks: readonly Attack[] = []) =>
  attacks.map(({ who, what, target, result, stoppedBy }) => `${who} ${what} ${target}: ${result}, ${stoppedBy}`)

/** Pages of VMs, one word each. */
const vms = (ranges: Answer<'GET /memory/ownership'>['ranges']): string =>
  ranges.flatMap(({ state, vm, base, size }) => (state === 'vm' ? [`${vm}:${base}+${size}`] : [])).join(' ')

/** What the API says while the machine runs. */
class Watcher {
  /** Owners as the server and as EL2's tables have them, when both showed the same pages of VMs. */
  ownership: Answer<'GET /memory/ownership'> | undefined
  attacks: Answer<'GET /memory/attacks'> | undefined
  /** Status and reason of a donation by hand. */
  donation: readonly [status: number, detail: string] | undefined
  #url: URL | undefined
  #ended = false

  /** Begins when the URL of the dashboard has been printed. */
  readonly printed = (text: string): void => {
    const url = /dashboard at (http:\S+)/.exec(text)?.[1]
    if (url === undefined || this.#url !== undefined) return
    this.#url = new URL(url)
    void this.#watch(this.#url)
  }

  end(): void {
    this.#ended = true
  }

  async #watch(url: URL): Promise<void> {
    const api = (path: string, init?: RequestInit) => fetch(new URL(`/api/v1/memory/${path}`, url), init)
    while (!this.#ended) {
      await new Promise(resolve => setTimeout(resolve, 200))
      try {
        this.attacks = (await (await api('attacks')).json()) as Answer<'GET /memory/attacks'>
        if (this.ownership !== undefined) continue
        const answer = await api('ownership')
        if (!answer.ok) continue
        const seen = (await answer.json()) as Answer<'GET /memory/ownership'>
        // A change may come between the two that are asked for.
        const owned = vms(seen.el2 ?? [])
        if (owned === '' || owned !== vms(seen.ranges)) continue
        this.ownership = seen
        const body = JSON.stringify({ base: '0x50000000', size: 4096, vm: 1 })
        const refused = await api('donate', { method: 'POST', headers: { 'content-type': 'application/json' }, body })
        this.donation = [refused.status, ((await refused.json()) as { detail: string }).detail]
      } catch {} // The machine, and the server with it, has ended.
    }
  }
}

describe('a protected VM whose host attacks it', () => {
  test('the policy follows EL2: nothing reaches the VM, EL2 or the server', async () => {
    const args = ['boot', '--el2', 'pkvm', '--smp', '2', '--storm', '4', '--oracle', '--dashboard', '0', '--quiet']
    const watcher = new Watcher()
    const { report, stderr } = await cosim(args, { ...DEADLINE, onErrors: watcher.printed })
    watcher.end()
    expect(report?.message, stderr).toBeUndefined()
    expect(report?.outcome, stderr).toBe('ok')
    expect(report?.isolated).toBe(true)
    expect(lines(report?.attacks?.attacks)).toEqual([
      'dma read own: reached, null',
      'cpu read secret: SIGSEGV, EL2: SIGSEGV',
      'cpu write secret: SIGSEGV, EL2: SIGSEGV',
      `dma read secret: zeros, ${SMMU}`,
      `dma write secret: nothing arrived, ${SMMU}`,
      'cpu read el2: zeros, EL2: the load faulted',
      `dma read el2: zeros, ${SMMU}`,
      `dma write el2: issued, ${SMMU}`,
      'cpu read carveout: SIGBUS, CPU guard: SIGBUS',
      'cpu write carveout: SIGBUS, CPU guard: SIGBUS',
      `dma read carveout: zeros, ${SMMU}`,
      `dma write carveout: issued, ${SMMU}`,
      'cpu read lent: reached, null',
      'dma read lent: reached, null',
      'cpu read taken back: SIGSEGV, EL2: SIGSEGV',
      `dma read taken back: zeros, ${SMMU}`,
      'dma read given back: zeros, null',
    ])
    expect(report?.attacks?.secretChanged).toBe(0)
    expect(report?.attacks?.storm).toMatchObject({ vms: 4, secretsRead: 0, secretsChanged: 0, silent: 0 })
    const { ownership, attacks, donation } = watcher
    // Both show the same pages of VMs.
    expect(ownership).toBeDefined()
    expect(donation).toEqual([409, 'EL2 owns the pages and alone gives and takes them: nothing to donate by hand'])
    expect(lines(attacks?.attacks)).toEqual(lines(report?.attacks?.attacks).slice(0, attacks?.attacks.length))
    expect(attacks?.attacks.length).toBeGreaterThan(10)
    expect(report?.el2?.registers?.vttbr).toMatch(/^0x7/)
    expect(report?.el2?.changes).toBeGreaterThan(100)
    expect(report?.el2?.checks).toBeGreaterThan(3)
    // All of RAM, of which EL2 keeps the 12 MiB that it reserved, at least.
    expect(report?.el2?.agreement).toMatchObject({ pages: 2 ** 18, hypervisor: 2 ** 14, wrong: 0, disagreements: [] })
    expect(report?.el2?.agreement?.kept).toBeGreaterThan(3072)
    expect(stderr).toContain('SMMU and EL2 agree (262,144 pages checked')
    const recording = report?.recording?.path ?? ''
    const replayed = await cosim(['replay', recording])
    expect(replayed.code, replayed.stdout + replayed.stderr).toBe(0)
  })

  test('EL2’s own tables are the second stage: the devices work, and reach no more', async () => {
    const args = ['boot', '--el2', 'pkvm', '--stage2', 'shared', '--smp', '2', '--storm', '2', '--oracle', '--quiet']
    const { report, stderr } = await cosim(args, DEADLINE)
    expect(report?.message, stderr).toBeUndefined()
    expect(report?.outcome, stderr).toBe('ok')
    expect(report?.isolated).toBe(true)
    const attacks = lines(report?.attacks?.attacks)
    for (const target of ['secret', 'el2', 'carveout', 'taken back'])
      expect(attacks).toContain(`dma read ${target}: zeros, ${SMMU}`)
    expect(attacks).toContain('dma read own: reached, null')
    expect(attacks).toContain('dma read given back: zeros, null')
    expect(report?.attacks?.secretChanged).toBe(0)
    expect(report?.attacks?.storm).toMatchObject({ vms: 2, secretsRead: 0, secretsChanged: 0, silent: 0 })
    expect(report?.el2?.agreement).toMatchObject({ pages: 2 ** 18, hypervisor: 2 ** 14, wrong: 0, disagreements: [] })
    const { shared } = report as unknown as { shared: { own: number; linked: number; forgotten: number } }
    expect(shared.linked).toBeGreaterThan(0)
    expect(shared.forgotten).toBeGreaterThan(10)
    const replayed = await cosim(['replay', report?.recording?.path ?? ''])
    expect(replayed.code, replayed.stdout + replayed.stderr).toBe(0)
  })

  test('EL2’s tables that the SMMU cannot walk: the machine is stopped before a device gets anywhere', async () => {
    const cpu = ['--qemu-arg=-cpu', '--qemu-arg=max,sve=off,sme=off']
    const { report } = await cosim(['boot', '--el2', 'pkvm', '--stage2', 'shared', ...cpu, '--quiet'], DEADLINE)
    expect(report?.outcome).toBe('hyp-panic')
    expect(report?.message).toContain('VTCR_EL2.DS')
  })

  test('a policy that does not follow EL2: devices read and change the secret', async () => {
    const { report, stderr } = await cosim(['boot', '--el2', 'pkvm', '--policy', 'passthrough', '--quiet'], DEADLINE)
    expect(report?.outcome, stderr).toBe('ok')
    const open = lines(report?.attacks?.attacks)
    expect(open).toContain('cpu read secret: SIGSEGV, EL2: SIGSEGV')
    expect(open).toContain('dma read secret: reached, null')
    expect(open).toContain('dma write secret: reached, null')
    expect(open).toContain('dma read el2: reached, null')
    expect(report?.attacks?.secretChanged).toBe(1)
    expect(stderr).toContain('stopped by NOTHING')
    expect(stderr).toContain("the VM's secret: 1 WORD CHANGED")
  })

  test('a kernel that is to drive the SMMU at EL2, and leaves it to its host', async () => {
    const { report, stderr } = await cosim(['boot', '--el2', 'kernel', '--quiet'], DEADLINE)
    expect(report?.outcome, stderr).toBe('isolation-violation')
    expect(report?.isolated).toBe(false)
    expect(report?.policy).toBe('observe')
    expect(report?.message).toMatch(
      /^EL2 and the SMMU do not agree: StreamID 0x\w+ of SMMU 0, which has no second stage, reaches \d+ pages? at 0x\w+/,
    )
    // It was stopped there, before it attacked anything.
    expect(report?.attacks).toBeUndefined()
  })

  test.each([
    [['--el2', 'pkvm', '--granule', '65536'], '--granule 65536: EL2 gives and takes pages of 4096 bytes'],
    [['--stage2', 'shared'], '--stage2 shared: only with --el2 pkvm, whose tables are shared'],
    [['--populate', 'never'], '--populate: only with --stage2 shared'],
    [['--el2', 'pkvm', '--stage2', 'shared', '--blocks'], '--stage2 shared: EL2 says what is mapped in blocks'],
    [['--storm', '4'], '--storm: only with --el2 pkvm'],
    [['--el2', 'pkvm', '--reboots', '1'], '--reboots: not with --el2 pkvm'],
  ])('%j is refused before anything is started', async (args, reason) => {
    const { code, stderr } = await cosim(['boot', ...args])
    expect(code).toBe(2)
    expect(stderr).toContain(reason)
  })
})
