// SPDX-License-Identifier: Apache-2.0
/** The dashboard in a real browser, and no guest: a machine whose QEMU is a fake, recordings, what is asked for with the start dialog. */
import { execFile } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { type Browser, chromium, type Locator, type Page, type WebSocketRoute } from 'playwright-core'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { MachineManager } from '../../server/api/machineManager.ts'
import { Problem } from '../../server/api/problem.ts'
import type { Queue, QueueEntry } from '../../server/api/schemas/smmus.ts'
import { type RunningServer, startServer } from '../../server/api/server.ts'
import { buildDashboard } from '../../server/api/webBuild.ts'
import { ARM_SMMU_CR0, ARM_SMMU_GBPA, ARM_SMMU_IDR0 } from '../../server/smmu/registers.ts'
import { type Harness, startApp } from '../unit/api/harness.ts'
import { campaignFile } from '../unit/sessions/campaignFile.ts'
import { violations } from './axe.ts'
import { CHROMIUM, CHROMIUM_ARGUMENTS, newPage } from './browser.ts'

const STEP_MS = 60_000
const MAIN = fileURLToPath(new URL('../../server/cli/main.ts', import.meta.url))
const fixture = (name: string) => fileURLToPath(new URL(`../unit/trace/recordings/${name}.gz`, import.meta.url))
const MS = 1_000_000

const VIEWS = 'overview traps queues streams translation memory console breakpoints faults el2 attack runs'.split(' ')
/** One of them can be fired by hand. */
const OWN_RULES = `rules:
  - name: by-hand
    where: { at: machine }
    when: { time: 10000000 }
    what: { do: delay, ms: 1 }
`

let browser: Browser
let page: Page
let complaints: string[]

beforeAll(async () => {
  if (!existsSync(CHROMIUM)) throw new Error(`${CHROMIUM} is missing: install Debian's chromium, or set CHROMIUM`)
  browser = await chromium.launch({ executablePath: CHROMIUM, args: CHROMIUM_ARGUMENTS })
}, 180_000)

afterAll(() => browser?.close())

beforeEach(async () => {
  complaints = []
  page = await newPage(browser, complaints, STEP_MS)
})

afterEach(async () => {
  await page.close()
  expect(complaints).toEqual([])
})

/** With the page in the dark, and in the light. */
async function inBothThemes(look: (theme: string) => Promise<void>): Promise<void> {
  for (const theme of ['dark', 'light']) {
    // Keys that change it are not heard behind a dialog.
    await page.evaluate(`document.documentElement.dataset.theme = '${theme}'`)
    // Colours change by and by.
    await page.waitForTimeout(300)
    await look(theme)
  }
}

describe('a machine whose QEMU is a fake', () => {
  let machine: Harness
  beforeEach(async () => {
    machine = await startApp({ dashboard: await buildDashboard(), qmp: true })
  }, 180_000)
  afterEach(async () => {
    // A page that is open would complain that the server went.
    await page.goto('about:blank')
    await machine.close()
  })
  const open = (view: string) => page.goto(new URL(`/#/${view}`, machine.url).href)
  const read = async (offset: number, times: number) => {
    for (let n = 0; n < times; n++) await machine.qemu.read(offset, 4)
  }
  const post = async (path: string, body: object = {}, method = 'POST') => {
    const headers = { 'content-type': 'application/json' }
    const answer = await fetch(`${machine.url}/api/v1${path}`, { method, body: JSON.stringify(body), headers })
    expect(answer.status, await answer.text()).toBeLessThan(300)
  }
  /** A trap waits at the next access, which is this read. */
  const hold = async () => {
    await post('/break')
    void machine.qemu.read(ARM_SMMU_IDR0, 4).catch(() => {})
    await expect.poll(() => machine.manager.status().state).toBe('held')
  }
  /** @returns what takes the page's connection away, and gives it back; requests are answered all the while */
  const breakable = async () => {
    let away = false
    const open = new Set<WebSocketRoute>()
    await page.routeWebSocket(/\/stream$/, route => {
      if (away) return void route.close({ code: 1001 })
      open.add(route)
      route.connectToServer()
    })
    const lost = page.getByText('The connection to the server is lost')
    return {
      async lose() {
        away = true
        for (const route of open) await route.close({ code: 1001 })
        open.clear()
        await lost.waitFor()
      },
      async regain() {
        away = false
        await lost.waitFor({ state: 'hidden' })
      },
    }
  }
  test('connection lost: no button of any view asks for anything', async () => {
    const { lose, regain } = await breakable()
    await post('/faults', { text: OWN_RULES, seed: 1 })
    await post('/breakpoints', { on: 'register', register: 'CR0' })
    await hold()
    /** Of each view, what has to be dead, and what is to be done for it to be live before. */
    const asking: Readonly<Record<string, readonly [dead: readonly string[], prepare?: () => Promise<void>]>> = {
      overview: [['Kill']],
      traps: [[]],
      queues: [[]],
      streams: [[]],
      translation: [
        ['Walk'],
        async () => {
          await page.getByLabel('StreamID', { exact: true }).fill('0x8')
          await page.getByLabel('Input address (IOVA)').fill('0x1000')
        },
      ],
      memory: [['Donate', 'Reclaim'], () => page.getByLabel('Address', { exact: true }).fill('0x40000000')],
      console: [[]],
      breakpoints: [['Set breakpoint', 'Remove breakpoint 1', 'CFGI_STE']],
      faults: [['Arm', 'Disarm', 'Fire by-hand now'], () => page.getByText('Own rules').click()],
      el2: [[]],
      attack: [['Start the attack']],
      runs: [[]],
    }
    expect(Object.keys(asking)).toEqual(VIEWS)
    const asked: string[] = []
    page.on('request', request => {
      if (request.method() !== 'GET') asked.push(`${request.method()} ${request.url()}`)
    })
    for (const [view, [dead, prepare]] of Object.entries(asking)) {
      await open(view)
      await page.getByRole('status', { name: 'Machine held at a trap' }).waitFor()
      await prepare?.()
      const buttons = ['Continue F8', 'Step F10', 'Drop', 'Abort', ...dead].map(name =>
        page.getByRole('button', { name, exact: true }).first(),
      )
      // What the state of the machine decides is gone when that is not known.
      const live = () =>
        Promise.all(buttons.map(async button => (await button.count()) > 0 && (await button.isEnabled())))
      await expect.poll(live, { message: view }).toEqual(buttons.map(() => true))
      await lose()
      expect(await live(), view).toEqual(buttons.map(() => false))
      // Whatever else there is, and whatever dialog it opens.
      for (let round = 0; round < 2; round++) {
        await page.evaluate(
          `for (const e of document.querySelectorAll('button, input[type=checkbox], summary')) e.click()`,
        )
        await page.waitForTimeout(100)
      }
      for (const key of ['Escape', 'F8', 'F10', 'b']) await page.keyboard.press(key)
      await page.waitForTimeout(100)
      expect(asked, view).toEqual([])
      await page.goto('about:blank')
      await regain()
    }
    await page.unrouteAll()
    // Under this policy nobody owns pages, and the fake's streams cannot be walked.
    complaints = complaints.filter(text => !text.includes('409'))
  })

  test('connection lost, paused, ended, refused: nothing for axe-core, dark and light', async () => {
    const { lose, regain } = await breakable()
    const wrong: string[] = []
    const look = (state: string) =>
      inBothThemes(async theme => {
        for (const view of VIEWS) {
          await page.evaluate(`location.hash = '/${view}'`)
          await page.locator(`.rail a[aria-current][href="#/${view}"]`).waitFor()
          await page.waitForTimeout(150)
          wrong.push(...(await violations(page)).map(text => `${state}, ${view}, ${theme}: ${text}`))
        }
      })
    await open('overview')
    await page.getByRole('status', { name: 'Machine running' }).waitFor()
    await page.getByRole('button', { name: 'Pause', exact: true }).click()
    await page.getByRole('status', { name: 'Machine paused' }).waitFor()
    await look('paused')
    await page.getByRole('button', { name: 'Resume', exact: true }).click()
    await hold()
    await page.getByRole('status', { name: 'Machine held at a trap' }).waitFor()
    await look('held')
    await lose()
    await look('connection lost')
    await regain()
    await inBothThemes(async theme => {
      await page.route('**/machine/kill', route =>
        route.fulfill({ status: 409, json: { detail: 'it is not to be killed' } }),
      )
      await page.getByRole('button', { name: 'Kill', exact: true }).click()
      await page.getByRole('button', { name: 'Kill the machine', exact: true }).click()
      await page.locator('.toast.bad', { hasText: 'it is not to be killed' }).first().waitFor()
      wrong.push(...(await violations(page)).map(text => `refused, ${theme}: ${text}`))
      await page.unroute('**/machine/kill')
    })
    await post('/machine/kill')
    await page.getByRole('status', { name: 'Machine off' }).waitFor()
    await look('ended')
    expect(wrong).toEqual([])
    complaints = complaints.filter(text => !text.includes('409'))
  })

  test('traps: the heads of the columns say what is in them', async () => {
    await read(ARM_SMMU_IDR0, 1)
    await open('traps')
    await page.locator('.virtual .trap:not(.other)').first().waitFor()
    const heads = page.locator('.trap.head > span')
    const found = await heads.evaluateAll(all => all.map(e => [e.textContent, e.getAttribute('title') ?? '']))
    expect(found).toEqual([
      ['#', expect.stringContaining('number of the trap')],
      ['Time', expect.stringMatching(/virtual clock in seconds.*the server's clock/)],
      ['Δ', expect.stringContaining('since the line above')],
      ['C', expect.stringContaining('vCPU')],
      ['A', expect.stringMatching(/R a read, W a write/)],
      ['Register', expect.stringContaining('IHI 0070')],
      ['Value', expect.stringMatching(/written by the host.*answered to it/)],
      ['Decoded', expect.stringMatching(/fields of the value.*commands/)],
      ['Kernel function', expect.stringContaining('symbols of the kernel')],
      ['µs', expect.stringMatching(/the server's time.*QEMU/)],
    ])
    // A head stands over what it is about.
    const lefts = (of: Locator) => of.evaluateAll(all => all.map(e => e.getBoundingClientRect().left))
    const row = page.locator('.virtual .trap:not(.other)').first()
    const columns = await lefts(row.locator('> span'))
    const tops = await lefts(heads)
    expect(columns).toHaveLength(tops.length)
    // But for the room of the bar to scroll with.
    for (const [i, left] of columns.entries()) expect(Math.abs(left - (tops[i] ?? 0))).toBeLessThan(12)
  })

  test('traps: a read that QEMU answered is told in the same words everywhere, and by the last where there is no room', async () => {
    machine.qemu.predictedRead(ARM_SMMU_GBPA, 9)
    await read(ARM_SMMU_IDR0, 1)
    await machine.settle()
    const row = page.locator('.virtual .trap', { hasText: 'GBPA' })
    for (const [width, roomy] of [
      [1280, false],
      [1920, true],
    ] as const) {
      await page.setViewportSize({ width, height: 900 })
      await open('traps')
      const took = row.locator('> span').last()
      await expect.poll(() => took.textContent()).toBe('answered by QEMU')
      expect(await took.locator('.roomy').isVisible()).toBe(roomy)
      expect(await took.getAttribute('title')).toBe('answered by QEMU without asking, as it had been told to')
      expect(await took.evaluate(e => e.scrollWidth - e.clientWidth)).toBe(0)
      await page.goto('about:blank')
    }
    await open('traps')
    await row.click()
    await page.locator('.detail .facts dd', { hasText: /^answered by QEMU$/ }).waitFor()
    await open('overview')
    const tally = page.locator('.tallies > div', { hasText: 'answered by QEMU' })
    await expect.poll(() => tally.locator('dd').textContent()).toBe('1')
    await page.locator('.facts dd', { hasText: /, 1 vCPU$/ }).waitFor()
  })

  test('narrow: the head of a long panel keeps its height, and nothing of it is over what is below', async () => {
    const entry = {
      ...{ address: '0x40001200', valid: true, config: 's1', text: 'V s1', words: ['0x1'] },
      fields: Array.from({ length: 40 }, (_, i) => ({ name: `F${i}`, value: '1' })),
    }
    const detail = {
      sid: 8,
      device: null,
      shadowed: false,
      host: entry,
      shadow: null,
      differs: [],
      legal: true,
      cd: null,
    }
    const list = { shadowed: false, shadowTable: null, streams: [{ sid: 8, device: null, host: 's1', shadow: null }] }
    await page.route('**/smmus/0/streams', route => route.fulfill({ json: list }))
    await page.route('**/smmus/0/streams/8', route => route.fulfill({ json: { ...detail, roots: [] } }))
    await page.setViewportSize({ width: 480, height: 800 })
    await open('streams?sid=8')
    await page.getByText('F39', { exact: true }).waitFor()
    const head = page.locator('.panel > header', { hasText: 'StreamID 0x8' })
    const bottom = (of: Locator) => of.evaluate(e => e.getBoundingClientRect().bottom)
    expect(await bottom(head.getByRole('button'))).toBeLessThanOrEqual(await bottom(head))
  })

  test('console: whatever the height of the window, the last line is whole', async () => {
    for (let n = 1; n <= 100; n++) machine.say(`line ${n}\n`)
    machine.say('the last')
    for (const height of [800, 804, 808, 812]) {
      await page.setViewportSize({ width: 1280, height })
      await open('console')
      const last = page.locator('.xterm-rows > div', { hasText: 'the last' })
      const bottom = async (of: Locator) => of.evaluate(e => e.getBoundingClientRect().bottom)
      await last.waitFor()
      await expect
        .poll(async () => (await bottom(page.locator('.terminal:not(.xterm)'))) - (await bottom(last)))
        .toBeGreaterThanOrEqual(0)
      await page.goto('about:blank')
    }
  })

  test('queues: colours say whose is what, and what came of each command; what is still to come is told from what was', async () => {
    const entry = (index: number, name: string, more: Partial<QueueEntry> = {}): QueueEntry => ({
      ...{ index, name, text: `${name} sid=0x8`, words: ['0x8_0000_0003', '0x1'] },
      ...more,
    })
    const queue = (prod: number, cons: number, shown: readonly QueueEntry[]): Queue => ({
      ...{ enabled: true, base: '0x48000000', entries: 16, prodWrap: 0, consWrap: 0, error: 0 },
      ...{ prod, cons, pending: prod - cons, shown: [...shown] },
    })
    const answer = {
      host: queue(5, 4, [
        entry(1, 'CFGI_STE', { verdict: 'kept', shadow: 8 }),
        entry(2, 'TLBI_NH_ALL', { verdict: 'rewritten', shadow: 9 }),
        entry(3, 'TLBI_S2_IPA', { verdict: 'dropped' }),
        entry(4, 'CFGI_CD'),
      ]),
      shadow: queue(11, 10, [
        entry(8, 'CFGI_STE', { verdict: 'kept' }),
        entry(9, 'TLBI_NSNH_ALL', { verdict: 'rewritten', words: ['0x30', '0x0'] }),
        entry(10, 'TLBI_S12_VMALL', { verdict: 'own' }),
      ]),
      events: queue(2, 1, [entry(0, 'F_TRANSLATION'), entry(1, 'F_PERMISSION')]),
    }
    await page.route('**/smmus/0/queues', route => route.fulfill({ json: answer }))
    await open('queues')
    const rows = page.locator('.pairs tbody tr')
    await rows.nth(4).waitFor()
    const cells = await rows.evaluateAll(all =>
      all.map(row => [...row.querySelectorAll('td')].map(e => e.textContent?.replace(/ sid=0x8$/, '') ?? '')),
    )
    expect(cells).toEqual([
      ['0x1', 'CFGI_STE', 'kept', '0x8', 'the same'],
      ['0x2', 'TLBI_NH_ALL', 'rewritten', '0x9', 'TLBI_NSNH_ALL'],
      ['0x3', 'TLBI_S2_IPA', 'dropped', '', ''],
      ['0x4', 'CFGI_CD', '', '', 'not yet looked at'],
      ['', '', 'own', '0xa', 'TLBI_S12_VMALL'],
    ])
    const style = (selector: string, name: string) =>
      page.evaluate<string[]>(
        `[...document.querySelectorAll('${selector}')].map(e => getComputedStyle(e).getPropertyValue('${name}'))`,
      )
    await inBothThemes(async theme => {
      const [host, hyp, hw] = await page.evaluate<string[]>(`['host', 'hyp', 'hw'].map(name => {
        const probe = document.body.appendChild(document.createElement('i'))
        probe.style.color = 'var(--' + name + ')'
        const { color } = getComputedStyle(probe)
        probe.remove()
        return color
      })`)
      // PROD in the colour of who gives, CONS in that of who takes: the host's queue, its shadow, the event queue.
      expect(await style('.ring i.prod', 'background-color'), theme).toEqual([host, hyp, hw])
      expect(await style('.ring i.cons', 'background-color'), theme).toEqual([hyp, hw, host])
      expect(new Set(await style('.pairs .tag', 'color')).size, theme).toBe(4)
      const behind = await style('.pairs tbody tr', 'background-color')
      // What was consumed looks alike, whatever came of it; what is to come, and what the hypervisor added, like nothing else.
      expect(behind.slice(1, 3), theme).toEqual([behind[0], behind[0]])
      expect(new Set(behind).size, theme).toBe(3)
      const events = await style('.queue:not(.pairs) tbody tr', 'background-color')
      expect(events, theme).toEqual([behind[0], behind[3]])
      expect(await violations(page), theme).toEqual([])
    })
  })

  test('traps: faults, events and resets are marks on the time line, each at its time', async () => {
    const { qemu, manager } = machine
    const rules = `rules:
  - name: seven
    where: { at: register, register: GBPA, access: read }
    when: { times: 1 }
    what: { do: set, value: 7 }
`
    const armed = await fetch(`${machine.url}/api/v1/faults`, {
      method: 'POST',
      body: JSON.stringify({ text: rules, seed: 1 }),
      headers: { 'content-type': 'application/json' },
    })
    expect(armed.status).toBe(200)
    qemu.time = 1 * MS
    await read(ARM_SMMU_IDR0, 1)
    qemu.time = 3 * MS
    await read(ARM_SMMU_GBPA, 1)
    // F_TRANSLATION
    qemu.event(0x10, 8, 5 * MS)
    await qemu.reset(7 * MS)
    qemu.time = 9 * MS
    await read(ARM_SMMU_IDR0, 1)
    await machine.settle()
    const firings = () => manager.history.firings.read(0, 10, undefined).items
    await expect.poll(firings).toMatchObject([{ rule: 'seven', trap: 2, time: 3 * MS }])

    await open('traps')
    const marks = page.locator('.time-chart [class^="mark-"]')
    await expect.poll(() => marks.count()).toBe(3)
    const chart = await page.locator('.time-chart svg').boundingBox()
    const found = await marks.evaluateAll(all =>
      all.map(e => {
        const { left, width } = e.getBoundingClientRect()
        return { kind: e.getAttribute('class'), text: e.querySelector('title')?.textContent ?? '', x: left + width / 2 }
      }),
    )
    expect(found.map(({ kind, text }) => [kind, text])).toEqual([
      ['mark-fault', expect.stringMatching(/^fault at 0\.003000 s of guest time: seven: /)],
      ['mark-event', expect.stringMatching(/^event at 0\.005000 s of guest time: .*F_TRANSLATION/)],
      ['mark-reset', 'reset at 0.007000 s of guest time: machine reset'],
    ])
    if (chart === null) throw new Error('no time line')
    for (const [i, time] of [3, 5, 7].entries())
      expect(Math.abs((found[i]?.x ?? 0) - (chart.x + ((time - 1) / 8) * chart.width))).toBeLessThan(2)
    const colours = await page.evaluate<string[]>(
      `[...document.querySelectorAll('.time-chart [class^=mark-]')].map(e => getComputedStyle(e).fill)`,
    )
    expect(new Set(colours).size).toBe(3)
    expect(await violations(page)).toEqual([])
    // A mark leads to the trap of its time.
    await page.locator('.time-chart .mark-fault').click({ position: { x: 4, y: 2 } })
    await page.locator('.detail .child.fault').first().waitFor()
    expect(await page.locator('.detail h2').textContent()).toMatch(/^Trap 2\b/)
  })

  test('overview: of the bars of shares the largest fills its cell, the others are measured by it', async () => {
    await read(ARM_SMMU_IDR0, 30)
    for (let n = 0; n < 10; n++) await machine.qemu.write(ARM_SMMU_CR0, 4, 0)
    await read(ARM_SMMU_CR0, 5)
    await machine.settle()
    await open('overview')
    const bar = (register: string) =>
      page
        .locator('.registers tbody tr')
        .filter({ has: page.getByRole('link', { name: register, exact: true }) })
        .locator('svg.share rect')
        .evaluateAll(all => all.map(e => [e.getAttribute('class'), Number(e.getAttribute('width'))]))
    // Reads, then writes, of 100.
    await expect
      .poll(() => bar('IDR0'))
      .toEqual([
        ['fill-host', 100],
        ['fill-hw', 0],
      ])
    const [reads, writes] = await bar('CR0')
    expect([reads?.[0], writes?.[0]]).toEqual(['fill-host', 'fill-hw'])
    expect(Number(reads?.[1])).toBeCloseTo((5 / 30) * 100)
    expect(Number(writes?.[1])).toBeCloseTo((10 / 30) * 100)
  })

  test('overview: an oops of the guest is told as one, a panic as one', async () => {
    await open('overview')
    await page.getByRole('status', { name: 'Machine running' }).waitFor()
    const alert = page.getByRole('alert').filter({ hasText: 'The guest’s kernel said' })
    expect(await alert.count()).toBe(0)
    machine.say('[    1.0] Internal error: Oops: 0000000096000004 [#1] SMP\n')
    await alert.filter({ hasText: 'an oops' }).waitFor()
    const reports = page.locator('.reports-list li')
    const oops = reports.filter({ hasText: 'guest oops' })
    await oops.getByText('Internal error: Oops: 0000000096000004').waitFor()
    // As bad news, not as one of the events that are nobody's fault.
    expect(await oops.locator('.tag').getAttribute('class')).toMatch(/\bbad\b/)
    machine.say('[    2.0] Kernel panic - not syncing: Attempted to kill init!\n')
    await alert.filter({ hasText: 'a panic' }).waitFor()
    await reports.filter({ hasText: 'guest panic' }).getByText('Attempted to kill init!').waitFor()
    expect(await alert.count()).toBe(1)
    expect(await violations(page)).toEqual([])
    await alert.getByRole('link', { name: 'see its console' }).click()
    await page.getByLabel('Serial console').waitFor()
  })
})

describe('without a machine', () => {
  let folder: string
  let manager: MachineManager
  let server: RunningServer
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'cosim-web-'))
    const runs = join(folder, 'runs')
    for (const [run, name] of [
      ['run-1', '6.12-nested'],
      ['run-2', '6.12-queues'],
    ] as const) {
      mkdirSync(join(runs, run), { recursive: true })
      copyFileSync(fixture(name), join(runs, run, 'trace'))
    }
    campaignFile(join(folder, 'campaigns.db'))
    manager = new MachineManager({ runsFolder: runs })
    server = await startServer({ manager, port: 0, say: () => {} })
  }, 180_000)
  afterAll(async () => {
    await manager?.close()
    await server?.close()
    rmSync(folder, { recursive: true, force: true })
  })
  afterEach(() => void vi.restoreAllMocks())
  const dialog = () => page.getByRole('dialog', { name: 'Start a machine' })
  const openDialog = async () => {
    await page.goto(new URL('/#/overview', server.url).href)
    await page.getByRole('banner').getByRole('button', { name: 'Start' }).click()
    await dialog().waitFor()
  }

  test('from the start dialog to recordings and campaigns; one is replayed, two are compared', async () => {
    await openDialog()
    await dialog()
      .getByRole('button', { name: /^Recordings of earlier machines/ })
      .click()
    await dialog().waitFor({ state: 'hidden' })
    const recordings = page.getByRole('group', { name: 'Recordings', exact: true })
    await recordings.getByRole('button', { name: 'Replay run-2' }).waitFor()
    expect(await recordings.locator('tbody tr').count()).toBe(2)
    const campaigns = page.getByRole('group', { name: 'Campaigns', exact: true }).locator('tbody tr')
    expect(await campaigns.nth(1).locator('td').allTextContents()).toEqual([
      '2',
      expect.stringMatching(/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$/),
      'after',
      '10 of 10',
      '2',
      'OpenCompare',
    ])

    const report = page.locator('pre.steps')
    await recordings.getByRole('button', { name: 'Replay run-1' }).click()
    await report.filter({ hasText: '500 traps replayed in' }).waitFor()
    await page.getByRole('heading', { name: 'Replay of run-1' }).waitFor()
    await page.getByText('no difference', { exact: true }).waitFor()

    const compare = recordings.getByRole('button', { name: 'Compare run-1 with another' })
    await compare.click()
    expect(await compare.getAttribute('aria-pressed')).toBe('true')
    await recordings.getByRole('button', { name: 'Compare with run-2' }).click()
    await page.getByRole('heading', { name: 'run-1 and run-2' }).waitFor()
    await page.getByText('different', { exact: true }).waitFor()
    const [one, two] = ['run-1', 'run-2'].map(run => join(folder, 'runs', run, 'trace'))
    const printed = await promisify(execFile)(process.execPath, [MAIN, 'trace', 'diff', `${one}`, `${two}`]).catch(
      (error: { code: number; stdout: string }) => error,
    )
    expect(printed).toMatchObject({ code: 1 })
    expect((await report.textContent())?.split('\n')).toEqual(printed.stdout.trimEnd().split('\n').slice(0, 400))
    expect(await violations(page)).toEqual([])
  })

  test('a campaign is opened, what was not expected first; two are compared; one that is not there is told', async () => {
    await page.goto(new URL('/#/runs', server.url).href)
    await page.getByRole('button', { name: 'Open campaign 2' }).click()
    await page.getByRole('heading', { name: 'Campaign 2' }).waitFor()
    await page.getByText('8 not as expected', { exact: true }).waitFor()
    const rows = page.getByRole('group', { name: 'Sessions', exact: true }).locator('tbody tr')
    const cells = (n: number) => rows.nth(n).locator('td').allTextContents()
    const [hung, recovered] = [await cells(0), await cells(9)]
    expect(hung).toEqual(['tlbi-late', '6.12', 'nested', '1', 'guest-hung', 'no: recovered', '1.5 s'])
    expect(recovered).toEqual(['tlbi-late', '6.12', 'nested', '10', 'recovered', 'yes', '1.5 s'])
    expect(await rows.count()).toBe(10)
    expect(await violations(page)).toEqual([])

    await page.getByRole('button', { name: 'Open campaign 3' }).click()
    await page.getByText('No session is done yet').waitFor()
    // Nothing was as expected, and nothing was not.
    expect(await page.getByText('all as expected').count()).toBe(0)

    const compare = page.getByRole('button', { name: 'Compare campaign 1 with another' })
    await compare.click()
    expect(await compare.getAttribute('aria-pressed')).toBe('true')
    await page.getByRole('button', { name: 'Compare with campaign 2' }).click()
    await page.getByRole('heading', { name: 'Campaigns 1 and 2' }).waitFor()
    await page.getByText('different', { exact: true }).waitFor()
    const printed = await promisify(execFile)(process.execPath, [
      ...[MAIN, 'faults', 'compare', '1', '2', '--database', join(folder, 'campaigns.db')],
    ]).catch((error: { code: number; stdout: string }) => error)
    expect(printed).toMatchObject({ code: 1 })
    expect(await page.locator('pre.steps').textContent()).toBe(printed.stdout.trimEnd())
    expect(await violations(page)).toEqual([])

    await page.route('**/campaigns/1', route => route.fulfill({ status: 404, json: { detail: 'no campaign 1' } }))
    await page.getByRole('button', { name: 'Open campaign 1' }).click()
    await page.getByText('no campaign 1').waitFor()
    complaints = complaints.filter(text => !text.includes('404'))
  })

  test('the start dialog: what is chosen is what a machine is started with', async () => {
    const start = vi.spyOn(manager, 'start').mockResolvedValue()
    await openDialog()
    await dialog()
      .getByRole('checkbox', { name: /^pKVM at EL2/ })
      .check()
    // EL2 brings its kernel along.
    expect(
      await dialog()
        .getByRole('combobox', { name: /^Kernel/ })
        .isDisabled(),
    ).toBe(true)
    await dialog()
      .getByLabel(/^Until/)
      .selectOption('nested')
    await dialog().getByRole('combobox', { name: /^Run/ }).selectOption('workload')
    await dialog()
      .getByRole('combobox', { name: /^Memory/ })
      .selectOption('2G')
    await dialog().getByRole('spinbutton', { name: 'vCPUs' }).fill('3')
    await dialog()
      .getByLabel(/^Timed reads/)
      .fill('40')
    await dialog()
      .getByLabel(/^Kernel command line/)
      .fill('debug')
    await dialog().getByLabel('hold the first trap').check()
    await dialog().getByLabel('end at the first unexpected warning').check()
    await dialog()
      .getByLabel(/^oracle/)
      .check()
    await dialog().getByText('Own files, devices, translation').click()
    await dialog()
      .getByRole('combobox', { name: /^Translation/ })
      .selectOption('server')
    await dialog()
      .getByLabel(/^SMMUs/)
      .fill('3')
    await dialog().getByText('Faults from the first trap on').click()
    for (const name of ['cr0ack-stuck', 'sync-hangs', 'cr0ack-late'])
      await dialog().getByLabel('Add a fault').selectOption(name)
    await dialog().getByRole('button', { name: 'Without sync-hangs' }).click()
    await dialog().getByLabel('Seed').fill('11')
    await dialog().getByText('Known defects of the posted series').click()
    await dialog()
      .getByRole('checkbox', { name: /^queues-unshared/ })
      .check()
    await dialog().getByRole('button', { name: 'Start', exact: true }).click()
    await expect.poll(() => start.mock.calls.length).toBe(1)
    // It went through the server's own check of requests.
    const [[asked] = []] = start.mock.calls
    expect(asked).toMatchObject({
      ...{ policy: 'pkvm', until: 'nested', el2: 'pkvm', run: 'workload', memory: '2G', smp: 3, bench: 40 },
      ...{ append: 'debug', breakFirst: true, panicOnWarn: true, oracle: true, translate: 'server', smmus: 3 },
      ...{ faults: ['cr0ack-stuck', 'cr0ack-late'], seed: 11, quirks: ['queues-unshared'] },
    })
    expect(asked).not.toHaveProperty('kernel')

    // What was ticked off again is not asked for.
    await page.reload()
    await page.getByRole('banner').getByRole('button', { name: 'Start' }).click()
    const el2 = dialog().getByRole('checkbox', { name: /^pKVM at EL2/ })
    await el2.check()
    await el2.uncheck()
    await dialog()
      .getByRole('combobox', { name: /^Kernel/ })
      .selectOption('6.1')
    await dialog().getByRole('button', { name: 'Start', exact: true }).click()
    await expect.poll(() => start.mock.calls.length).toBe(2)
    const [, [plain] = []] = start.mock.calls
    expect(plain).toMatchObject({ el2: 'none', kernel: '6.1', translate: 'hardware', smmus: 1, blocks: false })
    for (const name of ['faults', 'quirks', 'power', 'image']) expect(plain).not.toHaveProperty(name)
  })

  test('the start dialog: a refusal stands in it, beside what was chosen, until it is closed', async () => {
    vi.spyOn(manager, 'start').mockRejectedValue(new Problem(422, 'its kernel has no driver of the disk'))
    await openDialog()
    const line = dialog().getByLabel('Kernel command line')
    await line.fill('quiet')
    await dialog().getByRole('button', { name: 'Start', exact: true }).click()
    const refusal = dialog().getByRole('alert')
    await refusal.filter({ hasText: 'its kernel has no driver of the disk' }).waitFor()
    expect(await line.inputValue()).toBe('quiet')
    await inBothThemes(async theme => expect(await violations(page), theme).toEqual([]))
    await dialog().getByRole('button', { name: 'Cancel' }).click()
    await page.getByRole('banner').getByRole('button', { name: 'Start' }).click()
    await dialog().waitFor()
    expect(await refusal.count()).toBe(0)
    complaints = complaints.filter(text => !text.includes('422'))
  })
})
