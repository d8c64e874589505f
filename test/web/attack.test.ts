// SPDX-License-Identifier: Apache-2.0
/** An attack from the dashboard, in a real browser: started, watched, looked into, stopped. */
import { existsSync } from 'node:fs'
import { type Browser, chromium, type Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { MachineManager } from '../../server/api/machineManager.ts'
import { type RunningServer, startServer } from '../../server/api/server.ts'
import { violations } from './axe.ts'
import { CHROMIUM, CHROMIUM_ARGUMENTS, newPage } from './browser.ts'

const STEP_MS = 60_000

let manager: MachineManager
let server: RunningServer
let browser: Browser
let page: Page
let complaints: string[]

beforeAll(async () => {
  if (!existsSync(CHROMIUM)) throw new Error(`${CHROMIUM} is missing: install Debian's chromium, or set CHROMIUM`)
  manager = new MachineManager()
  server = await startServer({ manager, port: 0, say: () => {} })
  browser = await chromium.launch({ executablePath: CHROMIUM, args: CHROMIUM_ARGUMENTS })
}, 180_000)

afterAll(async () => {
  await browser?.close()
  await manager?.close()
  await server?.close()
})

beforeEach(async () => {
  complaints = []
  page = await newPage(browser, complaints, STEP_MS)
  await page.goto(new URL('/#/overview', server.url).href)
  // A key that comes before the page listens is lost.
  await expect
    .poll(async () => {
      await page.keyboard.press('a')
      return page.url()
    })
    .toMatch(/#\/attack$/)
})

afterEach(async () => {
  await page.close()
  expect(complaints).toEqual([])
})

test('a known defect is attacked, found, and each step says where it was decided', async () => {
  await page.getByText('No attack was started').waitFor()
  await page.getByText('Known defects of the posted series').click()
  await page.getByRole('checkbox', { name: /^queues-unshared/ }).check()
  await page.getByText('1 on').waitFor()
  await page.getByLabel('Seconds').fill('600')
  await page.getByLabel('Seed').fill('1')
  await page.getByRole('button', { name: 'Start the attack' }).click()
  await page.getByText('with queues-unshared').waitFor()
  const finding = page.locator('.findings button').first()
  await finding.waitFor()
  await page
    .locator('.tallies div', { hasText: 'operations' })
    .getByText(/^[1-9]/)
    .waitFor()
  await page
    .locator('tr', { hasText: 'warning at a register' })
    .getByText(/^[1-9]/)
    .waitFor()
  await finding.click()
  const steps = page.locator('pre.steps')
  await steps.waitFor()
  expect(await steps.textContent()).toMatch(/decided at server\/hypervisor\/pkvm\/\w+\.ts:\d+/)
  expect(await finding.getAttribute('aria-expanded')).toBe('true')
  await page.getByRole('button', { name: 'Stop the attack' }).click()
  await page.getByText('ended', { exact: true }).waitFor()
  // What was found stays, also for a page that comes later.
  await page.reload()
  await page.locator('.findings button').first().waitFor()
  expect(manager.attackRun.view()).toMatchObject({ state: 'done', options: { quirks: ['queues-unshared'], seed: 1 } })
})

test('the switches of the command line: series, blocks, BBM level, hardware that is not coherent', async () => {
  let asked: unknown
  await page.route('**/api/v1/attack', async route => {
    asked = route.request().postDataJSON()
    await route.fulfill({ json: manager.attackRun.view() })
  })
  const form = page.locator('form', { hasText: 'Start the attack' })
  await form.getByLabel('RAM in blocks').check()
  await form.getByLabel('BBM level').selectOption('2')
  await form.getByRole('checkbox', { name: 'noncoherent' }).check()
  await form.getByRole('combobox', { name: /^Until/ }).selectOption('nested')
  expect(await violations(page)).toEqual([])
  await form.getByRole('button', { name: 'Start the attack' }).click()
  await expect
    .poll(() => asked)
    .toMatchObject({ policy: 'pkvm', until: 'nested', blocks: true, bbm: 2, hardware: ['noncoherent'] })
  // What another policy does not have is not sent.
  await form.getByRole('combobox', { name: 'Policy', exact: true }).selectOption('partition')
  await form.getByRole('button', { name: 'Start the attack' }).click()
  await expect.poll(() => asked).toMatchObject({ policy: 'partition' })
  expect(asked).not.toHaveProperty('blocks')
  // A switch takes no letters: they still lead to the views.
  await form.getByRole('checkbox', { name: 'noncoherent' }).focus()
  await page.keyboard.press('r')
  await expect.poll(() => page.url()).toMatch(/#\/runs$/)
})

test('tables of EL2, shared: populate choices, and nothing that does not go with them', async () => {
  let asked: unknown
  await page.route('**/api/v1/attack', async route => {
    asked = route.request().postDataJSON()
    await route.fulfill({ json: manager.attackRun.view() })
  })
  const form = page.locator('form', { hasText: 'Start the attack' })
  const select = (name: RegExp) => form.getByRole('combobox', { name })
  const go = form.getByRole('button', { name: 'Start the attack' })
  expect(await select(/^Populate/).isDisabled()).toBe(true)
  await form.getByLabel('RAM in blocks').check()
  await select(/^Until/).selectOption('cmdq')
  await select(/^Second stage/).selectOption('shared')
  expect(await form.getByLabel('RAM in blocks').isDisabled()).toBe(true)
  expect(await select(/^Until/).isDisabled()).toBe(true)
  expect(await violations(page)).toEqual([])
  await go.click()
  await expect.poll(() => asked).toEqual({ policy: 'pkvm', stage2: 'shared', seconds: 60, hardware: [] })
  await select(/^Populate/).selectOption('never')
  await go.click()
  await expect.poll(() => asked).toMatchObject({ stage2: 'shared', populate: 'never' })
  // Another policy has no second stage that could be EL2's.
  await select(/^Policy$/).selectOption('partition')
  await go.click()
  await expect.poll(() => asked).toEqual({ policy: 'partition', seconds: 60, hardware: [] })
})

test('an attack on shared tables says so while it runs', async () => {
  const form = page.locator('form', { hasText: 'Start the attack' })
  await form.getByRole('combobox', { name: /^Second stage/ }).selectOption('shared')
  await form.getByRole('combobox', { name: /^Populate/ }).selectOption('ahead')
  await form.getByLabel('Seconds').fill('600')
  await form.getByRole('button', { name: 'Start the attack' }).click()
  await page.getByText('EL2’s tables shared, ahead').waitFor()
  await page
    .locator('.tallies div', { hasText: 'judged' })
    .getByText(/^[1-9]/)
    .waitFor()
  await page.getByRole('button', { name: 'Stop the attack' }).click()
  await page.getByText('ended', { exact: true }).waitFor()
  expect(manager.attackRun.view()).toMatchObject({ found: 0, options: { stage2: 'shared', populate: 'ahead' } })
})

test('the start dialog offers known defects of the policy that has them, and the oracle', async () => {
  await page.getByRole('banner').getByRole('button', { name: 'Start' }).click()
  const dialog = page.getByRole('dialog')
  await dialog.getByText('Known defects of the posted series').click()
  await dialog.getByRole('checkbox', { name: /^idmap-never-initialised v4/ }).check()
  await dialog.getByRole('checkbox', { name: /^oracle/ }).check()
  await dialog.getByRole('combobox', { name: 'Policy', exact: true }).selectOption('partition')
  expect(await dialog.getByText('Known defects of the posted series').count()).toBe(0)
})
